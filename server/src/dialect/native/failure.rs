//! Why a call was refused, as `{"error":{"code":"snake_case","message":"expected and got, and what to do"}}`.
//!
//! The code is for programs and never changes its meaning; the message is for people. `docs/api.md` lists the codes.

use super::uploads::UPLOAD_OFFSET;
use crate::auth::{AuthError, Forbidden};
use crate::dialect::common::check::CheckRefused;
use crate::dialect::common::limiter::Exceeded;
use crate::dialect::common::status::{Status, ingest_status, status};
use crate::dialect::common::upload::UploadError;
use crate::guesses::WrongCredentials;
use crate::http::path::PathError;
use crate::http::{BodyError, Reply, Request, json, retry_after, with_header};
use ::http::StatusCode;
use ::http::header::{ALLOW, CONNECTION, WWW_AUTHENTICATE};
use serde::Serialize;
use sluicegate::Error;
use sluicegate::image::{ImageError, IngestError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) retry_after_s: Option<u32>,
    /// Of a path that is there, but not with this method.
    pub(super) allow: Option<String>,
    /// Where an upload goes on, which isn't where the caller thought.
    pub(super) upload_offset: Option<u64>,
    /// The caller showed something that it may have guessed.
    pub(super) is_wrong_credentials: bool,
}

/// `error` of a reply, and of a line about a refused device.
#[derive(Debug, Serialize)]
pub(super) struct ErrorShown<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after_s: None,
            allow: None,
            upload_offset: None,
            is_wrong_credentials: false,
        }
    }

    /// A value is malformed or out of its range.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_argument", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Of whoever may only have guessed.
    pub(super) fn wrong_credentials(self) -> Self {
        Self { is_wrong_credentials: true, ..self }
    }

    fn of(status: Status, message: String) -> Self {
        Self { retry_after_s: status.retry_after_s, ..Self::new(status.http, status.code, message) }
    }

    pub(super) fn unavailable(code: &'static str, retry_after_s: u32, message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    pub(super) fn no_route(request: &Request) -> Self {
        let path = shortened(request.uri().path(), 120);
        Self::new(StatusCode::NOT_FOUND, "route_not_found", format!("nothing answers at {path}; see /openapi.json for what does"))
    }

    pub(super) fn wrong_method(allow: String) -> Self {
        let message = format!("this path takes {allow} only");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    pub(super) fn shown(&self) -> ErrorShown<'_> {
        ErrorShown { code: self.code, message: &self.message, offset: self.upload_offset }
    }

    pub(super) fn into_reply(self) -> Reply {
        #[derive(Serialize)]
        struct Wrapped<'a> {
            error: ErrorShown<'a>,
        }
        let mut reply = json(self.status, &Wrapped { error: self.shown() });
        if let Some(allow) = self.allow {
            reply = with_header(reply, ALLOW, allow);
        }
        if let Some(offset) = self.upload_offset {
            reply = with_header(reply, UPLOAD_OFFSET, offset);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            reply = with_header(reply, WWW_AUTHENTICATE, "Bearer");
        }
        if self.is_wrong_credentials {
            reply.extensions_mut().insert(WrongCredentials);
        }
        // What is left of such a body is not worth reading.
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            reply = with_header(reply, CONNECTION, "close");
        }
        match self.retry_after_s {
            Some(seconds) => retry_after(reply, seconds),
            None => reply,
        }
    }
}

/// The start of a text that came from outside, for a message.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(status(&error), error.to_string())
    }
}

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Self {
        let seconds = exceeded.retry_after_s;
        let message = format!(
            "too many calls within a minute; come back in {seconds} s, or have the operator raise [limits] calls_per_minute"
        );
        Self { retry_after_s: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_calls", message) }
    }
}

impl From<CheckRefused> for Failure {
    fn from(refused: CheckRefused) -> Self {
        match refused {
            CheckRefused::Engine(error) => error.into(),
            CheckRefused::TooOften(Exceeded { retry_after_s }) => {
                let message = format!("this device asks too often; ask again in {retry_after_s} s");
                Self { retry_after_s: Some(retry_after_s), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_checks", message) }
            }
        }
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        let (code, message) = match error {
            AuthError::Missing => ("token_missing", "no token came with the call; send it as Authorization: Bearer TOKEN"),
            AuthError::Unknown => ("token_unknown", "the token is not known here, or was revoked; get a new one from an operator"),
            AuthError::Expired => ("token_expired", "the token has expired; get a new one from an operator"),
            AuthError::Certificate => (
                "certificate_refused",
                "the connection's certificate has expired or was revoked, or its authority isn't trusted any more; show another, or send a token",
            ),
        };
        let failure = Self::new(StatusCode::UNAUTHORIZED, code, message);
        if error.is_guess() { failure.wrong_credentials() } else { failure }
    }
}

impl From<Forbidden> for Failure {
    fn from(error: Forbidden) -> Self {
        Self::forbidden(error.to_string())
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_url", error.to_string())
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge { .. } => "body_too_large",
            BodyError::TooSlow => "body_too_slow",
            BodyError::Broken => "body_incomplete",
        };
        Self::new(error.status(), code, error.to_string())
    }
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Header(message) => Self::new(StatusCode::BAD_REQUEST, "invalid_upload", message),
            UploadError::Body(error) => error.into(),
            UploadError::Ingest(error) => error.into(),
            UploadError::Engine(error) => error.into(),
            UploadError::Stopping => Self::of(Status::STOPPING, error.to_string()),
        }
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        Self::of(ingest_status(&error), error.to_string())
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let message = error.to_string();
        match error {
            ImageError::Missing { .. } => Self::new(StatusCode::NOT_FOUND, "image_missing", message),
            ImageError::WrongSize { .. } | ImageError::Damaged { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "image_damaged", message)
            }
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "an image could not be read");
                Self::unavailable("image_unreadable", 60, message)
            }
        }
    }
}
