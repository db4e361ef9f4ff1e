//! Links that open one image for a while, without a header.
//!
//! ```text
//! {public URL}/images/{SHA-256}?e={expiry}&u={upgrade}&s={signature}
//!                     64 hex       8 hex       32 hex      22 base64url         143 characters after the public URL
//! ```
//!
//! Devices keep at most 255 characters of a URL, and many cut it out of JSON without unescaping: so the public URL may have 112
//! characters, and no character of a link needs escaping anywhere. `e` are seconds since 1970, `u` is left out of links that no
//! upgrade was offered with. The signature is HMAC-SHA-256 over image, expiry and upgrade, cut to 128 bits; guessing one takes 2^127
//! requests, and there is nothing to collide with.
//!
//! Whoever has a link has the image until it expires; that is what it is for. It opens nothing else, and the upgrade in it can't be
//! exchanged, so nobody makes progress in another's name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sluicegate::model::{ImageId, Timestamp, UpgradeId};
use std::fmt::{self, Write as _};
use subtle::ConstantTimeEq;

/// What a valid link says beside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whose progress the bytes are; absent in links that operators get.
    pub upgrade: Option<UpgradeId>,
}

/// Why a link doesn't open an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No signature at all: this is no link, and a token may do instead.
    #[error("an image is fetched with a signed link or a token, got neither; check again for a link")]
    Missing,
    /// Genuine, but too old.
    #[error("the link expired at {expired_at_s} seconds since 1970; check again for a new one")]
    Expired { expired_at_s: u64 },
    /// Not what was signed, or signed by another server.
    #[error("the link was altered, cut or signed with another key; check again for a new one")]
    Altered,
}

/// Signs links and knows its own again.
#[derive(Clone)]
pub struct LinkSigner {
    /// The key hashed into it already, which saves a link half the work.
    keyed: Hmac<Sha256>,
}

const SIGNATURE_BYTES: usize = 16;
/// Of a link, after the public URL.
const OWN_CHARACTERS: usize = 143;

impl LinkSigner {
    pub fn new(key: [u8; 32]) -> Self {
        // `new`, unlike `new_from_slice`, takes a whole block and can't fail; shorter keys are filled up with zeros (RFC 2104).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// A link to `image` that lasts until `expires_at`. `public_url` has no slash at its end.
    pub fn link(&self, public_url: &str, image: ImageId, upgrade: Option<UpgradeId>, expires_at: Timestamp) -> String {
        let expires_s = expires_at.as_seconds();
        let signature = URL_SAFE_NO_PAD.encode(self.sign(image, upgrade, expires_s));
        let mut link = String::with_capacity(public_url.len() + OWN_CHARACTERS);
        // Writing to a text can't fail.
        let _ = write!(link, "{public_url}/images/{image}?e={expires_s:08x}");
        if let Some(upgrade) = upgrade {
            let _ = write!(link, "&u={upgrade}");
        }
        link.push_str("&s=");
        link.push_str(&signature);
        link
    }

    /// Reads a link's query. Parameters that aren't ours are passed over: proxies and devices append some.
    ///
    /// That a link has expired is told only of one that was genuine.
    pub fn verify(&self, image: ImageId, query: Option<&str>, now: Timestamp) -> Result<Link, LinkError> {
        let parameters = Parameters::read(query.unwrap_or_default())?;
        let Some(signature) = parameters.signature else { return Err(LinkError::Missing) };
        let mut got = [0; SIGNATURE_BYTES];
        // The decoder refuses what isn't canonical, so no two spellings of one signature pass.
        let decoded = URL_SAFE_NO_PAD.decode_slice(signature, &mut got);
        if decoded != Ok(SIGNATURE_BYTES) {
            return Err(LinkError::Altered);
        }
        let expires_s = parameters.expiry.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(LinkError::Altered)?;
        let upgrade: Option<UpgradeId> = parameters.upgrade.map(str::parse).transpose().map_err(|_| LinkError::Altered)?;
        if !bool::from(self.sign(image, upgrade, expires_s).ct_eq(&got)) {
            return Err(LinkError::Altered);
        }
        if now.as_seconds() > expires_s {
            return Err(LinkError::Expired { expired_at_s: expires_s });
        }
        Ok(Link { upgrade })
    }

    fn sign(&self, image: ImageId, upgrade: Option<UpgradeId>, expires_s: u64) -> [u8; SIGNATURE_BYTES] {
        // Every field has a fixed length or comes last, and the purpose comes first: no other message of this key reads the same.
        let mut mac = self.keyed.clone();
        mac.update(b"sluicegate image link 1\0");
        mac.update(&image.0);
        mac.update(&expires_s.to_be_bytes());
        if let Some(UpgradeId { task, device, offer }) = upgrade {
            mac.update(&task.0.to_be_bytes());
            mac.update(&device.0.to_be_bytes());
            mac.update(&offer.to_be_bytes());
        }
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        std::array::from_fn(|at| whole[at])
    }
}

impl fmt::Debug for LinkSigner {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkSigner")
    }
}

/// The parameters of ours in a query.
#[derive(Default)]
struct Parameters<'a> {
    expiry: Option<&'a str>,
    upgrade: Option<&'a str>,
    signature: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn read(query: &'a str) -> Result<Self, LinkError> {
        let mut parameters = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let place = match name {
                "e" => &mut parameters.expiry,
                "u" => &mut parameters.upgrade,
                "s" => &mut parameters.signature,
                _ => continue,
            };
            // Twice the same name could be read one way here and another way elsewhere.
            if place.replace(value).is_some() {
                return Err(LinkError::Altered);
            }
        }
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluicegate::model::{DeviceNumber, TaskNumber};

    const IMAGE: ImageId = ImageId([0xa7; 32]);
    const UPGRADE: UpgradeId = UpgradeId { task: TaskNumber(1), device: DeviceNumber(u32::MAX), offer: u64::MAX };
    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn signer() -> LinkSigner {
        LinkSigner::new([7; 32])
    }

    fn query(link: &str) -> Option<&str> {
        link.split_once('?').map(|(_, query)| query)
    }

    fn verify(link: &str, now: Timestamp) -> Result<Link, LinkError> {
        signer().verify(IMAGE, query(link), now)
    }

    #[test]
    fn a_link_opens_its_image_for_its_upgrade_until_it_expires() {
        for upgrade in [None, Some(UPGRADE)] {
            let link = signer().link("http://127.0.0.1:8080", IMAGE, upgrade, NOW.plus_seconds(60));
            assert!(link.starts_with(&format!("http://127.0.0.1:8080/images/{IMAGE}?e=")));
            assert_eq!(verify(&link, NOW), Ok(Link { upgrade }));
            assert_eq!(verify(&link, NOW.plus_seconds(60)), Ok(Link { upgrade }));
            assert_eq!(verify(&link, NOW.plus_seconds(61)), Err(LinkError::Expired { expired_at_s: 1_800_000_060 }));
        }
    }

    #[test]
    fn a_link_fits_in_255_characters_and_needs_no_escaping() {
        let public_url = format!("https://{}", "a".repeat(104));
        let link = signer().link(&public_url, IMAGE, Some(UPGRADE), NOW);
        assert_eq!(link.len(), 255);
        let needs_none = |c: char| c.is_ascii_alphanumeric() || "-_.:/?&=".contains(c);
        assert!(link.chars().all(needs_none), "{link}");
    }

    #[test]
    fn the_signature_is_that_of_the_format_for_ever() {
        // A link in a device's hands outlives an upgrade of the server. Computed once with another HMAC implementation.
        let link = signer().link("", IMAGE, None, NOW);
        assert_eq!(query(&link), Some("e=6b49d200&s=r8KqUtVe6IamIC0gQTXUxg"));
        let link = signer().link("", IMAGE, Some(UPGRADE), NOW);
        assert_eq!(query(&link), Some("e=6b49d200&u=00000001ffffffffffffffffffffffff&s=Fnh9B3Xt9sRGA9XmXAvGnQ"));
    }

    #[test]
    fn without_a_signature_it_is_no_link() {
        let verify = |query| signer().verify(IMAGE, query, NOW);
        assert_eq!(verify(None), Err(LinkError::Missing));
        assert_eq!(verify(Some("")), Err(LinkError::Missing));
        assert_eq!(verify(Some("token=1&e=ffffffff")), Err(LinkError::Missing));
    }

    #[test]
    fn parameters_of_others_are_passed_over_and_ours_must_not_repeat() {
        let link = signer().link("", IMAGE, Some(UPGRADE), NOW);
        let query = query(&link).unwrap();
        let verify = |query: &str| signer().verify(IMAGE, Some(query), NOW);
        assert!(verify(&format!("x=1&{query}&utm&y=")).is_ok());
        for repeated in ["e=6b49d200", "e=ffffffff", "u=", "s="] {
            assert_eq!(verify(&format!("{query}&{repeated}")), Err(LinkError::Altered));
        }
    }

    #[test]
    fn a_link_of_another_image_key_expiry_or_upgrade_does_not_open() {
        let altered =
            |image: ImageId, link: &str| assert_eq!(signer().verify(image, query(link), NOW), Err(LinkError::Altered), "{link}");
        let link = signer().link("", IMAGE, Some(UPGRADE), NOW);
        altered(ImageId([0xa6; 32]), &link);
        altered(IMAGE, &LinkSigner::new([8; 32]).link("", IMAGE, Some(UPGRADE), NOW));
        altered(IMAGE, &link.replace("e=6b49d200", "e=7b49d200"));
        altered(IMAGE, &link.replace("&u=00000001", "&u=00000002"));
        altered(IMAGE, &link.replace(&format!("&u={UPGRADE}"), ""));
        altered(IMAGE, &link.replace("&u=", "&v="));
        altered(IMAGE, &link.replace("e=", "f="));
        altered(IMAGE, &link.replace("&u=", "&u=g"));
        altered(IMAGE, &link[..link.len() - 1]);
        altered(IMAGE, &format!("{link}A"));
        let without = signer().link("", IMAGE, None, NOW);
        altered(IMAGE, &format!("{without}&u={UPGRADE}"));
    }

    #[test]
    fn the_key_is_not_shown_in_logs() {
        assert_eq!(format!("{:?}", signer()), "LinkSigner");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn what_was_signed_verifies(image: [u8; 32], task: u32, device: u32, offer: u64, expires_s in 0u64..1 << 40, named: bool) {
            let upgrade = named.then_some(UpgradeId { task: TaskNumber(task), device: DeviceNumber(device), offer });
            let expires_at = Timestamp::from_seconds(expires_s);
            let link = signer().link("https://ota.example", ImageId(image), upgrade, expires_at);
            prop_assert_eq!(signer().verify(ImageId(image), query(&link), expires_at), Ok(Link { upgrade }));
        }

        #[test]
        fn no_other_character_anywhere_passes(at in 0usize..68, byte in 32u8..127) {
            let link = signer().link("", IMAGE, Some(UPGRADE), NOW);
            let mut query = query(&link).unwrap().as_bytes().to_vec();
            let same = query[at] == byte;
            query[at] = byte;
            let query = String::from_utf8(query).unwrap();
            let result = signer().verify(IMAGE, Some(&query), NOW);
            // Hexadecimal in capitals says the same; everything else is refused.
            let is_digit = (2..10).contains(&at) || (13..45).contains(&at);
            let same_meaning = is_digit && query.eq_ignore_ascii_case(&link[link.len() - query.len()..]);
            prop_assert_eq!(result.is_ok(), same || same_meaning, "{}", query);
        }

        #[test]
        fn no_query_makes_it_fail_otherwise_than_by_an_error(query in ".{0,200}") {
            prop_assert!(signer().verify(IMAGE, Some(&query), NOW).is_err());
        }
    }
}
