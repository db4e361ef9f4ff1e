//! Products: devices of one make.

use super::decode::{self, ProductBody};
use super::encode::ProductShown;
use super::page::{Kind, Wanted, page};
use super::{Answer, access, body_of};
use crate::app::App;
use crate::http::{Query, Request, empty, json};
use ::http::StatusCode;
use sluicegate::model::Product;
use sluicegate::{Entity, Error, NewProduct};
use std::sync::Arc;

pub(super) async fn list(app: &App, request: Request) -> Answer {
    let caller = access::onlooker(app, request.headers(), app.now())?;
    let query = Query::parse(request.uri().query())?;
    let organization = access::organization(app, &caller, &query)?;
    let wanted = Wanted::read(&query)?;
    let after = wanted.after_text(Kind::Products)?;
    // A token of one product sees that one alone.
    let products: Vec<Arc<Product>> = match &caller.product_id {
        Some(own) => app.engine.read(|state| state.product(&organization, own).cloned()).await?.into_iter().collect(),
        None => app.engine.read(|state| state.products(&organization, after.as_deref(), wanted.fetch())).await?,
    };
    page(&wanted, &products, |product| ProductShown::new(product), |product| Kind::Products.at_text(&product.id))
}

pub(super) async fn get(app: &App, request: Request, product_id: &str) -> Answer {
    let caller = access::onlooker_of(app, request.headers(), app.now(), product_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let product = app.engine.read(|state| state.product(&organization, product_id).cloned()).await?;
    let product = product.ok_or_else(|| Error::not_found(Entity::Product, product_id))?;
    Ok(json(StatusCode::OK, &ProductShown::new(&product)))
}

pub(super) async fn put(app: &App, request: Request, product_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of(app, request.headers(), now, product_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let (_, body) = body_of(app, request).await?;
    let body: ProductBody = decode::parse_or_empty(&body)?;
    let was_there = app.engine.read(|state| state.product(&organization, product_id).is_some()).await?;
    let new = NewProduct { organization: organization.to_string(), product_id: product_id.to_owned(), name: body.name };
    let product = app.engine.put_product(new, now).await?;
    let status = if was_there { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json(status, &ProductShown::new(&product)))
}

pub(super) async fn delete(app: &App, request: Request, product_id: &str) -> Answer {
    let now = app.now();
    let caller = access::operator_of(app, request.headers(), now, product_id)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    app.engine.delete_product(&organization, product_id, now).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
