//! Files that a task or firmware names: images of ours, or files that lie elsewhere.
//!
//! A URL that is one of our own image links is recognised when it is written; what is offered later is a fresh signed link, since the
//! one that the operator pasted expires. Any other URL passes verbatim.

use super::decode::FileNamed;
use super::status::Failure;
use crate::app::App;
use crate::auth::Caller;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use ::http::HeaderMap;
use ::http::header::HOST;
use sluicegate::model::{Artifact, ImageId, Timestamp, UpgradeId};

/// What `named` stands for. Refused where it names an image of ours that isn't there, or describes it wrongly.
pub(super) async fn artifact(app: &App, caller: &Caller, headers: &HeaderMap, named: FileNamed) -> Result<Artifact, Failure> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let Some(id) = own_image(&named.url, app.public_url(), host) else {
        return Ok(Artifact { image: None, url: Some(named.url.into()), size: named.size, md5: named.md5.into(), sha256: None });
    };
    let Some(image) = app.engine.read(|state| state.image(&caller.organization, id)).await? else {
        return Err(Failure::invalid(format!(
            "the URL names image {id}, which is not here; upload it and use the URL that it gives"
        )));
    };
    let md5 = to_hexadecimal(&image.md5);
    if !named.md5.trim().eq_ignore_ascii_case(&md5) {
        return Err(Failure::invalid(format!("the file's MD5 is {md5}, got {:?}; send the one that the upload gave", named.md5)));
    }
    if named.size != image.size {
        return Err(Failure::invalid(format!("the file has {} bytes, got a size of {}", image.size, named.size)));
    }
    Ok(Artifact {
        image: Some(id),
        url: Some(named.url.into()),
        size: image.size,
        md5: md5.into(),
        sha256: Some(id.to_string().into()),
    })
}

/// What a device is to fetch from, where that is not what the operator named.
pub(super) fn link(app: &App, artifact: &Artifact, upgrade: Option<UpgradeId>, now: Timestamp) -> Option<String> {
    artifact.image.map(|image| app.image_link(image, upgrade, now))
}

/// The URL as its writer named it; empty where it was made from an upload directly.
pub(super) fn url_as_named(artifact: &Artifact) -> &str {
    artifact.url.as_deref().unwrap_or_default()
}

/// The image that `url` means, if it is a link of ours: under our public URL, under the host that the caller reached us by, or as a
/// bare path.
fn own_image(url: &str, public_url: &str, host: Option<&str>) -> Option<ImageId> {
    let after_host = |rest: &'_ str| -> Option<usize> {
        let host = host?;
        (rest.len() >= host.len() && rest.is_char_boundary(host.len()) && rest[..host.len()].eq_ignore_ascii_case(host))
            .then_some(host.len())
    };
    let path = url
        .strip_prefix(public_url)
        .filter(|rest| rest.starts_with('/'))
        .or_else(|| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
            rest.get(after_host(rest)?..)
        })
        .unwrap_or(url);
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let name = path.strip_prefix("/images/")?;
    let end = name.find(['?', '#']).unwrap_or(name.len());
    name[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn links_of_ours_are_recognised_however_the_operator_reached_us() {
        let own = |url: &str| own_image(url, "https://ota.example", Some("127.0.0.1:8080")).map(|id| id.to_string());
        for url in [
            format!("https://ota.example/images/{ID}?e=1&s=x"),
            format!("http://127.0.0.1:8080/images/{ID}"),
            format!("/images/{ID}?e=1"),
            format!("https://127.0.0.1:8080/api/v1/images/{ID}"),
        ] {
            assert_eq!(own(&url).as_deref(), Some(ID), "{url}");
        }
    }

    #[test]
    fn files_elsewhere_are_left_alone() {
        let own = |url: &str| own_image(url, "https://ota.example", Some("127.0.0.1:8080"));
        for url in [
            format!("https://cdn.example/images/{ID}"),
            format!("https://ota.example.evil/images/{ID}"),
            format!("http://127.0.0.1:80801/images/{ID}"),
            format!("https://ota.example/images/{ID}/x"),
            format!("https://ota.example/images/../images/{ID}"),
            "https://ota.example/images/abc".to_owned(),
            "ftp://x/é".to_owned(),
            String::new(),
        ] {
            assert_eq!(own(&url), None, "{url}");
        }
    }
}
