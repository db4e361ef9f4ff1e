//! What the searches share: the body, and pages that are cut from what the first one found.

use super::Call;
use super::expression::{Expression, ExpressionError, FieldRule};
use super::page::{Page, PageWritten};
use super::status::Failure;
use crate::dialect::common::lenient::{self, Object};
use crate::dialect::common::result_sets::{PageRead, ResultSet, SearchKey, Searcher};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SearchWritten {
    #[serde(deserialize_with = "lenient::optional_text")]
    expression: Option<String>,
    pagination: Option<Object<PageWritten>>,
}

/// A search as it was asked for.
#[derive(Debug)]
pub(super) struct Search {
    /// Which of the searches.
    name: &'static str,
    expression: String,
    pub(super) page: Page,
}

impl Search {
    pub(super) fn read(call: &Call, name: &'static str) -> Result<Self, Failure> {
        let written: SearchWritten = call.json()?;
        Ok(Self {
            name,
            expression: written.expression.unwrap_or_default(),
            page: Page::read(written.pagination.map(|pagination| pagination.0))?,
        })
    }

    pub(super) fn expression<F: Copy>(&self, table: &'static [FieldRule<F>]) -> Result<Option<Expression<F>>, Failure> {
        Ok(Expression::parse(&self.expression, table)?)
    }

    /// What the first page found, for a further one; the first always finds anew.
    pub(super) fn kept(&self, call: &Call) -> Option<Arc<ResultSet>> {
        if self.page.offset() == 0 {
            return None;
        }
        call.app.enos.searches.get(&self.key(call), self.page_read(call), call.now)
    }

    /// Keeps what was found for further pages, where there are any.
    pub(super) fn keep(&self, call: &Call, found: ResultSet) -> Arc<ResultSet> {
        let found = Arc::new(found);
        if found.count() > self.page.limit() as u64 {
            call.app.enos.searches.put(self.key(call), self.page_read(call), Arc::clone(&found), call.now);
        }
        found
    }

    fn key(&self, call: &Call) -> SearchKey {
        let caller = &call.caller;
        let searcher = match (&caller.app, caller.token) {
            (Some(app), _) => Searcher::App(Arc::clone(app)),
            (None, Some(token)) => Searcher::Token(token),
            (None, None) => Searcher::Administrator,
        };
        SearchKey {
            searcher,
            organization: Arc::clone(&call.organization),
            product_id: caller.product_id.clone(),
            call: self.name,
            question: self.expression.trim().to_owned(),
        }
    }

    fn page_read(&self, call: &Call) -> PageRead {
        PageRead { number: self.page.number(), size: self.page.limit() as u64, address: call.address }
    }
}

impl From<ExpressionError> for Failure {
    fn from(error: ExpressionError) -> Self {
        Self::invalid(error.to_string())
    }
}
