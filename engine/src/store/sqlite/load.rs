//! Streams the tables to whoever opens the store.

use super::failure::sqlite_failure;
use super::read::{self, Texts};
use super::tables;
use crate::store::{LOADED_EVENTS_MAX, Loaded, Row, StoreError};
use rusqlite::Connection;
use std::sync::Arc;

/// Hands over every row, by kind, as [`Loaded`] says.
pub(super) fn load(connection: &Connection, sink: &mut dyn FnMut(Loaded)) -> Result<(), StoreError> {
    let mut loader = Loader { connection, texts: Texts::default(), sink };
    loader.table(read::PRODUCT, "products ORDER BY number", |row, texts| read::product(row, texts).map(row_of(Row::Product)))?;
    loader.table(read::IMAGE, "images ORDER BY organization, id", |row, texts| read::image(row, texts).map(row_of(Row::Image)))?;
    loader.table(read::FIRMWARE, "firmware ORDER BY number", |row, texts| read::firmware(row, texts).map(row_of(Row::Firmware)))?;
    loader.table(read::DEVICE, "devices ORDER BY number", |row, texts| read::device(row, texts).map(row_of(Row::Device)))?;
    loader.table(read::TASK, "tasks ORDER BY number", |row, texts| read::task(row, texts).map(row_of(Row::Task)))?;
    loader.table(read::PACE, "paces ORDER BY task", |row, texts| read::pace(row, texts).map(row_of(Row::Pace)))?;
    loader.table(read::UPGRADE, "upgrades ORDER BY task, device", |row, texts| match read::finished(row)? {
        Some(finished) => Ok(finished),
        None => read::upgrade(row, texts).map(row_of(Row::Upgrade)),
    })?;
    loader.table(read::TOKEN, "tokens ORDER BY id", |row, texts| read::token(row, texts).map(row_of(Row::Token)))?;
    loader.table(read::APP, "apps ORDER BY id", |row, texts| read::app(row, texts).map(row_of(Row::App)))?;
    loader.table(read::SUBSCRIPTION, "subscriptions ORDER BY id", |row, texts| {
        read::subscription(row, texts).map(row_of(Row::Subscription))
    })?;
    let newest = format!("(SELECT * FROM events ORDER BY sequence DESC LIMIT {LOADED_EVENTS_MAX}) ORDER BY sequence");
    loader.table(read::EVENT, &newest, |row, texts| read::event(row, texts).map(row_of(Row::Event)))
}

fn row_of<R>(kind: fn(Arc<R>) -> Row) -> impl Fn(R) -> Loaded {
    move |row| Loaded::Row(kind(Arc::new(row)))
}

struct Loader<'a> {
    connection: &'a Connection,
    texts: Texts,
    sink: &'a mut dyn FnMut(Loaded),
}

impl Loader<'_> {
    fn table(
        &mut self,
        columns: &str,
        from: &str,
        decode: impl Fn(&rusqlite::Row<'_>, &mut Texts) -> rusqlite::Result<Loaded>,
    ) -> Result<(), StoreError> {
        let mut run = || {
            let mut statement = self.connection.prepare(&format!("SELECT {columns} FROM {from}"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                (self.sink)(decode(row, &mut self.texts)?);
            }
            Ok(())
        };
        run().map_err(|error| sqlite_failure(&format!("loading {from} of {}", tables::FILE), error))
    }
}
