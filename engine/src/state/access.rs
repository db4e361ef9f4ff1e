//! Who may call, and who is told: tokens, applications, subscriptions.

use super::{Outcome, State, validate};
use crate::error::{Conflict, Entity, Error};
use crate::model::*;
use crate::store::{Key, Row};
use std::sync::Arc;

impl State {
    pub(super) fn put_token(&mut self, token: Token) -> Result<Arc<Token>, Error> {
        validate::id("organization", &token.organization, &self.limits)?;
        for (field, id) in [("product_id", &token.product_id), ("device_id", &token.device_id)] {
            if let Some(id) = id {
                validate::id(field, id, &self.limits)?;
            }
        }
        if self.tokens.contains_key(&token.id) {
            return Err(Error::conflict(Conflict::State, format!("token id {} is taken; make another", token.id)));
        }
        if self.tokens.len() >= self.limits.tokens_max {
            return Err(Error::LimitReached { what: "tokens", limit: self.limits.tokens_max as u64 });
        }
        let row = Arc::new(token);
        self.put(Row::Token(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn revoke_token(&mut self, organization: Option<&str>, id: TokenId) -> Result<Outcome, Error> {
        let own = |token: &&Arc<Token>| organization.is_none_or(|organization| *token.organization == *organization);
        self.tokens.get(&id).filter(own).ok_or_else(|| Error::not_found(Entity::Token, id))?;
        self.delete(Key::Token(id));
        Ok(Outcome::Done)
    }

    pub(super) fn put_app(&mut self, app: App) -> Result<Arc<App>, Error> {
        validate::id("id", &app.id, &self.limits)?;
        validate::id("organization", &app.organization, &self.limits)?;
        if self.apps.contains_key(&app.id) {
            return Err(Error::conflict(Conflict::AppId, format!("application {:?} exists; choose another id", app.id)));
        }
        let row = Arc::new(app);
        self.put(Row::App(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn delete_app(&mut self, organization: Option<&str>, id: &Arc<str>) -> Result<Outcome, Error> {
        let own = |app: &&Arc<App>| organization.is_none_or(|organization| *app.organization == *organization);
        self.apps.get(id).filter(own).ok_or_else(|| Error::not_found(Entity::App, id))?;
        // What it logged in for and subscribed to goes with it.
        for token in self.tokens_by_app.get(id).cloned().unwrap_or_default() {
            self.delete(Key::Token(token));
        }
        let subscriptions = self.subscriptions.values().filter(|row| row.app.as_ref() == Some(id));
        let subscriptions: Vec<SubscriptionId> = subscriptions.map(|row| Arc::clone(&row.id)).collect();
        for subscription in subscriptions {
            self.delete(Key::Subscription(subscription));
        }
        self.delete(Key::App(Arc::clone(id)));
        Ok(Outcome::Done)
    }

    pub(super) fn put_subscription(&mut self, subscription: Subscription) -> Result<Arc<Subscription>, Error> {
        validate::id("id", &subscription.id, &self.limits)?;
        validate::id("organization", &subscription.organization, &self.limits)?;
        validate::id("format", &subscription.format, &self.limits)?;
        validate::url("url", &subscription.url, &self.limits)?;
        if !self.subscriptions.contains_key(&subscription.id) && self.subscriptions.len() >= self.limits.subscriptions_max {
            return Err(Error::LimitReached { what: "subscriptions", limit: self.limits.subscriptions_max as u64 });
        }
        if self.subscriptions.get(&subscription.id).is_some_and(|there| there.organization != subscription.organization) {
            return Err(Error::not_found(Entity::Subscription, &subscription.id));
        }
        let row = Arc::new(subscription);
        self.put(Row::Subscription(Arc::clone(&row)));
        Ok(row)
    }

    pub(super) fn delete_subscription(&mut self, organization: &str, id: &Arc<str>) -> Result<Outcome, Error> {
        let own = |row: &&Arc<Subscription>| *row.organization == *organization;
        self.subscriptions.get(id).filter(own).ok_or_else(|| Error::not_found(Entity::Subscription, id))?;
        self.delete(Key::Subscription(Arc::clone(id)));
        Ok(Outcome::Done)
    }

    /// Everything up to `position` was delivered, or given up. Never goes back; nothing where the subscription is gone.
    pub(super) fn advance_subscription(&mut self, id: &Arc<str>, position: u64) -> Outcome {
        if let Some(row) = self.subscriptions.get(id).filter(|row| row.position < position) {
            let row = Subscription { position: position.min(self.event_sequence), ..Subscription::clone(row) };
            self.put(Row::Subscription(Arc::new(row)));
        }
        Outcome::Done
    }
}
