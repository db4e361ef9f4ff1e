//! What may not come in. Each refusal says what was expected and what came.

use crate::error::Error;
use crate::limits::Limits;
use crate::model::{Artifact, DeviceDetails};

/// A name that a customer chose: product, device, organization, group, application.
pub(super) fn id(field: &'static str, text: &str, limits: &Limits) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, format!("{field} is empty; give 1 to {} bytes", limits.id_bytes_max)));
    }
    bytes(field, text, limits.id_bytes_max)?;
    printable(field, text)
}

pub(super) fn version(field: &'static str, text: &str, limits: &Limits) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(field, format!("{field} is empty; give 1 to {} bytes", limits.version_bytes_max)));
    }
    bytes(field, text, limits.version_bytes_max)?;
    printable(field, text)
}

/// What an attribute or a tag says.
pub(super) fn value(field: &'static str, text: &str, limits: &Limits) -> Result<(), Error> {
    bytes(field, text, limits.value_bytes_max)
}

pub(super) fn name(field: &'static str, text: Option<&str>, limits: &Limits) -> Result<(), Error> {
    chars(field, text, limits.name_chars_max)
}

pub(super) fn text(field: &'static str, text: Option<&str>, limits: &Limits) -> Result<(), Error> {
    chars(field, text, limits.text_chars_max)
}

pub(super) fn artifact(artifact: &Artifact, limits: &Limits) -> Result<(), Error> {
    if let Some(text) = &artifact.url {
        url("url", text, limits)?;
    }
    bytes("md5", &artifact.md5, limits.id_bytes_max)?;
    if artifact.image.is_none() && artifact.url.is_none() {
        return Err(Error::invalid("image", "neither an image nor a url is given; name one of them"));
    }
    Ok(())
}

pub(super) fn url(field: &'static str, text: &str, limits: &Limits) -> Result<(), Error> {
    bytes(field, text, limits.url_bytes_max)?;
    printable(field, text)
}

pub(super) fn details(details: &DeviceDetails, limits: &Limits) -> Result<(), Error> {
    let count = |field: &'static str, count: usize| {
        if count > limits.details_per_device_max {
            return Err(Error::invalid(field, format!("{count} {field}; a device has at most {}", limits.details_per_device_max)));
        }
        Ok(())
    };
    count("attributes", details.attributes.len())?;
    count("tags", details.tags.len())?;
    count("groups", details.groups.len())?;
    count("asset_nodes", details.asset_nodes.len())?;
    for (field, values) in [("attributes", &details.attributes), ("tags", &details.tags)] {
        for (key, value) in values {
            id(field, key, limits)?;
            bytes(field, value, limits.value_bytes_max)?;
        }
    }
    for group in &details.groups {
        id("groups", group, limits)?;
    }
    for path in &details.asset_nodes {
        bytes("asset_nodes", path, limits.value_bytes_max)?;
        if path.split('/').any(str::is_empty) {
            return Err(Error::invalid("asset_nodes", format!("asset node {path:?} has an empty part; write tree/node/child")));
        }
        // Each part is an entry of the index that scopes and searches go by.
        let depth = path.split('/').count();
        if depth > limits.asset_depth_max {
            let max = limits.asset_depth_max;
            return Err(Error::invalid("asset_nodes", format!("asset node {path:?} has {depth} parts; at most {max} are allowed")));
        }
    }
    let words = [
        ("model", &details.model),
        ("manufacturer", &details.manufacturer),
        ("device_type", &details.device_type),
        ("gateway", &details.gateway),
    ];
    for (field, word) in words {
        if let Some(word) = word {
            bytes(field, word, limits.value_bytes_max)?;
        }
    }
    Ok(())
}

fn bytes(field: &'static str, text: &str, max: usize) -> Result<(), Error> {
    if text.len() > max {
        return Err(Error::invalid(field, format!("{field} has {} bytes; at most {max} are allowed", text.len())));
    }
    Ok(())
}

fn chars(field: &'static str, text: Option<&str>, max: usize) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    // A text has no more characters than bytes, so most need no counting.
    if text.len() > max {
        let count = text.chars().count();
        if count > max {
            return Err(Error::invalid(field, format!("{field} has {count} characters; at most {max} are allowed")));
        }
    }
    Ok(())
}

/// Control characters would break logs, headers and links further on.
fn printable(field: &'static str, text: &str) -> Result<(), Error> {
    match text.chars().find(|character| character.is_control()) {
        Some(character) => Err(Error::invalid(field, format!("{field} holds the control character {character:?}; leave it out"))),
        None => Ok(()),
    }
}
