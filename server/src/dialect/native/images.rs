//! Images: taken in, and served to whoever holds a token of their organization or a signed link.

use super::encode::ImageShown;
use super::failure::{Failure, shortened};
use super::{Answer, access};
use crate::app::App;
use crate::dialect::common::upload::{Uploaded, upload as take_in};
use crate::http::path::decode;
use crate::http::{Query, Request, bearer, json};
use crate::image::{CountServed, LinkError, respond};
use ::http::header::CONTENT_DISPOSITION;
use ::http::{HeaderMap, Response, StatusCode};
use sluicegate::image::SealedImage;
use sluicegate::model::ImageId;
use sluicegate::{Entity, Error};
use std::borrow::Cow;
use std::sync::Arc;

/// The body is the image itself, streamed; what it says of its digests and size is checked.
pub(super) async fn upload(app: &App, request: Request) -> Answer {
    let now = app.now();
    let caller = access::operator(app, request.headers(), now)?;
    let (organization, name) = {
        let query = Query::parse(request.uri().query())?;
        let name = file_name(query.get("name"), request.headers(), app.engine.limits().name_chars_max)?;
        (access::organization(app, &caller, &query)?, name)
    };
    let Uploaded { image, was_held, .. } = take_in(app, organization, name.map(Into::into), request).await?;
    let url = app.image_link(image.id, None, now);
    let status = if was_held { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json(status, &ImageShown::new(&image, &url)))
}

/// What the file is called: what the caller names, `?name=`, wins over `Content-Disposition`.
pub(super) fn file_name(named: Option<&str>, headers: &HeaderMap, chars_max: usize) -> Result<Option<String>, Failure> {
    let disposition = headers.get(CONTENT_DISPOSITION).and_then(|value| value.to_str().ok());
    let named = match named {
        Some(name) => Some(Cow::Borrowed(name)),
        None => disposition.and_then(disposition_name),
    };
    let Some(named) = named.filter(|name| !name.is_empty()) else { return Ok(None) };
    // Browsers of old send the whole path.
    let name = named.rsplit(['/', '\\']).next().unwrap_or_default();
    let chars = name.chars().count();
    if chars > chars_max || name.chars().any(char::is_control) {
        return Err(Failure::invalid(format!(
            "the file's name {:?} has {chars} characters; give at most {chars_max} without control characters",
            shortened(name, 80)
        )));
    }
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// The file's name in a `Content-Disposition`. `filename*` (RFC 8187) wins over `filename`.
fn disposition_name(value: &str) -> Option<Cow<'_, str>> {
    let mut plain = None;
    for parameter in parameters(value) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key.eq_ignore_ascii_case("filename*")
            && let Some((charset, rest)) = value.split_once('\'')
            && let Some((_language, encoded)) = rest.split_once('\'')
            && charset.eq_ignore_ascii_case("utf-8")
            && let Ok(name) = decode(encoded, false)
        {
            return Some(Cow::Owned(name.into_owned()));
        }
        if key.eq_ignore_ascii_case("filename") {
            plain = Some(match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                Some(quoted) => Cow::Owned(unescape(quoted)),
                None => Cow::Owned(value.to_owned()),
            });
        }
    }
    plain
}

/// Cut at the semicolons that stand outside of quotes.
fn parameters(value: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.split(move |character| {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' => return !is_quoted,
            _ => {}
        }
        false
    })
}

fn unescape(quoted: &str) -> String {
    let mut is_escaped = false;
    let keep = |character: &char| {
        is_escaped = *character == '\\' && !is_escaped;
        !is_escaped
    };
    quoted.chars().filter(keep).collect()
}

/// `GET|HEAD /api/v1/images/{sha256}`, for every token of an organization that holds it, but for activation codes.
pub(super) async fn by_token(app: &App, request: Request, name: &str) -> Answer {
    let now = app.now();
    let caller = access::caller(app, &request, now)?;
    access::may_open_images(&caller)?;
    let organization = access::organization(app, &caller, &Query::parse(request.uri().query())?)?;
    let id = parse_id(name)?;
    let image = app.engine.read(|state| state.image(&organization, id)).await?;
    let image = image.ok_or_else(|| Error::not_found(Entity::Image, id))?;
    let sealed = open(app, id, image.size).await?;
    let reply = respond(request.method(), request.headers(), &sealed, image.name.as_deref(), now);
    Ok(reply.map(|body| body.metered(Arc::clone(&app.metrics)).into()))
}

/// `GET|HEAD /images/{sha256}?…`, for whoever has a link; a token does too. The bytes count as progress of the link's upgrade.
pub(super) async fn by_link(app: &Arc<App>, request: Request, name: &str) -> Answer {
    let now = app.now();
    let id = parse_id(name)?;
    let link = match app.links.verify(id, request.uri().query(), now) {
        Ok(link) => link,
        Err(LinkError::Missing) if bearer(request.headers()).is_some() || request.body().peer().certificate.is_some() => {
            return by_token(app, request, name).await;
        }
        Err(error) => return Err(error.into()),
    };
    let size = app.engine.image(id).ok_or_else(|| Error::not_found(Entity::Image, id))?.size;
    let sealed = match app.engine.images().opened(id) {
        Some(sealed) => sealed,
        None => open(app, id, size).await?,
    };
    // Whoever holds the link need not know what another organization calls the file.
    let reply = respond(request.method(), request.headers(), &sealed, None, now);
    let (parts, body) = reply.into_parts();
    let body = body.metered(Arc::clone(&app.metrics));
    let body = match link.upgrade {
        Some(upgrade) => body.counted(Arc::clone(&app.downloads) as Arc<dyn CountServed>, upgrade, size),
        None => body,
    };
    Ok(Response::from_parts(parts, body.into()))
}

/// A text that is no hash names nothing.
fn parse_id(name: &str) -> Result<ImageId, Error> {
    name.parse().map_err(|_| Error::not_found(Entity::Image, name))
}

/// The image, verified. The first time after a start that reads all of it, on a thread that may block.
async fn open(app: &App, id: ImageId, size: u64) -> Result<SealedImage, Failure> {
    if let Some(sealed) = app.engine.images().opened(id) {
        return Ok(sealed);
    }
    let images = app.engine.images().clone();
    let opening = tokio::task::spawn_blocking(move || images.open_image(id, size));
    Ok(opening.await.map_err(|_| Error::Closed)??)
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let (status, code) = match error {
            LinkError::Missing => (StatusCode::UNAUTHORIZED, "link_missing"),
            LinkError::Expired { .. } => (StatusCode::FORBIDDEN, "link_expired"),
            LinkError::Altered => (StatusCode::FORBIDDEN, "link_invalid"),
        };
        let failure = Self::new(status, code, error.to_string());
        if error == LinkError::Altered { failure.wrong_credentials() } else { failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    fn name(query: &str, disposition: &'static str) -> Result<Option<String>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(disposition));
        file_name(Query::parse(Some(query)).unwrap().get("name"), &headers, 20)
    }

    #[test]
    fn the_files_name_is_read_from_the_query_or_the_header() {
        for (query, disposition, expected) in [
            ("name=a.bin", "attachment; filename=\"b.bin\"", Some("a.bin")),
            ("", "attachment; filename=\"b.bin\"", Some("b.bin")),
            ("", "attachment; FileName=b.bin", Some("b.bin")),
            ("", "attachment; filename=\"a;b\\\"c\\\\.bin\"", Some(".bin")),
            ("", "attachment; filename=\"x.bin\"; filename*=UTF-8''%e6%b0%b4.bin", Some("水.bin")),
            ("", "attachment; filename*=latin1''x; filename=y", Some("y")),
            ("", "attachment", None),
            ("name=", "attachment", None),
            ("name=../../etc/passwd", "", Some("passwd")),
            ("", "attachment; filename=\"C:\\\\temp\\\\fw.bin\"", Some("fw.bin")),
            ("name=a/", "", None),
        ] {
            assert_eq!(name(query, disposition), Ok(expected.map(str::to_owned)), "{query} {disposition}");
        }
    }

    #[test]
    fn a_name_too_long_or_with_control_characters_is_refused() {
        assert!(name(&format!("name={}", "x".repeat(21)), "").unwrap_err().message.contains("21 characters"));
        assert!(name("name=a%0d%0ab", "").is_err());
    }
}
