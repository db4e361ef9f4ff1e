//! How a device proves who it is when it connects: a digest made with its secret, which itself stays at home.
//!
//! ```text
//! clientId  {name}|securemode=2,signmethod=sha256,timestamp={ms}|
//! userName  {device key}&{product key}
//! password  hex(H("clientId" + name + "deviceKey" + device key + "productKey" + product key + "timestamp" + ms + secret))
//! ```
//!
//! The platform's own device libraries agree on that line and on little else; all of them get in here:
//!
//! | library | name | signmethod | timestamp | digits |
//! |---|---|---|---|---|
//! | Java | `{device key}{ip=…,version=…,compress=…}`, in braces | `sha256` | ms | lower case |
//! | Python | `{device key}` | `hmacsha256` | ms *with a fraction*: `1572574909697.123` | lower case |
//! | Node | `{device key}` | `sha256` | ms | upper case |
//! | C | `{product key}.{device key}` | `sha256` | always 2524608000000, in 2050 | upper case |
//!
//! - H is a plain digest; no HMAC, whatever `hmacsha256` promises. Java and Python can be set to SHA-1 (upper case) and MD5 too.
//! - The timestamp goes into the digest as it was written, so its text is kept.
//! - The timestamp says nothing of freshness: the C library never changes it, and Java and Python take it once and use it again on each
//!   reconnect. Whoever has seen one password can therefore use it for as long as the secret lives; only TLS is in the way of that.
//! - `securemode` 3 and 4 sign with a product's secret, to activate a device or to speak for many. Neither is offered here.

use super::topics::is_key;
use crate::dialect::common::hexadecimal::to_hexadecimal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

/// What a device says of itself; true only if [`Login::signature_holds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Login<'a> {
    pub(crate) product_key: &'a str,
    pub(crate) device_key: &'a str,
    /// What stands before the parameters in the client id. Signed, otherwise free.
    pub(crate) client_id_name: &'a str,
    /// Without its fraction. Good for a log, not for judging how old a login is: see above.
    pub(crate) timestamp_ms: u64,
    pub(crate) sign_method: SignMethod,
    /// As it was written and signed.
    timestamp: &'a str,
}

/// The digest that a password is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignMethod {
    Sha256,
    Sha1,
    Md5,
}

impl<'a> Login<'a> {
    /// None: these are no credentials of this kind.
    pub(crate) fn read(client_id: &'a str, username: &'a str) -> Option<Self> {
        let (device_key, product_key) = username.rsplit_once('&').filter(|(device, product)| is_key(device) && is_key(product))?;
        // The last part: a device key may have a bar in it, parameters don't.
        let (client_id_name, parameters) = client_id.strip_suffix('|').unwrap_or(client_id).rsplit_once('|')?;
        let parameters = Parameters::read(parameters)?;
        if client_id_name.is_empty() || parameters.secure_mode.is_some_and(|mode| mode != "2") {
            return None;
        }
        let timestamp = parameters.timestamp?;
        let sign_method = parameters.sign_method.map_or(Some(SignMethod::Sha256), SignMethod::read)?;
        Some(Self { product_key, device_key, client_id_name, timestamp_ms: milliseconds(timestamp)?, sign_method, timestamp })
    }

    /// Whether the password was made with this secret. Takes the same time wherever the two differ. Without a secret nothing holds:
    /// anybody can sign with none.
    pub(crate) fn signature_holds(&self, password: &[u8], secret: &[u8]) -> bool {
        let signed = [
            b"clientId".as_slice(),
            self.client_id_name.as_bytes(),
            b"deviceKey",
            self.device_key.as_bytes(),
            b"productKey",
            self.product_key.as_bytes(),
            b"timestamp",
            self.timestamp.as_bytes(),
            secret,
        ];
        if secret.is_empty() || password.len() != self.sign_method.digits() {
            return false;
        }
        let expected = self.sign_method.digest(&signed);
        expected.as_bytes().ct_eq(&password.to_ascii_lowercase()).into()
    }
}

impl SignMethod {
    fn read(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "sha256" | "hmacsha256" => Some(Self::Sha256),
            "sha1" | "hmacsha1" => Some(Self::Sha1),
            "md5" | "hmacmd5" => Some(Self::Md5),
            _ => None,
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha1 => 40,
            Self::Md5 => 32,
        }
    }

    /// In hexadecimal digits, lower case.
    fn digest(self, parts: &[&[u8]]) -> String {
        let algorithm = match self {
            Self::Sha256 => &SHA256,
            Self::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Md5 => {
                let mut context = Md5::new();
                parts.iter().for_each(|part| context.update(part));
                return to_hexadecimal(&context.finalize());
            }
        };
        let mut context = Context::new(algorithm);
        parts.iter().for_each(|part| context.update(part));
        to_hexadecimal(context.finish().as_ref())
    }
}

/// What stands between the bars of a client id, unknown ones left out.
#[derive(Clone, Copy, Debug, Default)]
struct Parameters<'a> {
    secure_mode: Option<&'a str>,
    sign_method: Option<&'a str>,
    timestamp: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    /// None where one of them is given twice: it couldn't be told which is meant.
    fn read(text: &'a str) -> Option<Self> {
        let mut read = Self::default();
        for (name, value) in text.split(',').filter_map(|parameter| parameter.split_once('=')) {
            let place = match name.to_ascii_lowercase().as_str() {
                "securemode" => &mut read.secure_mode,
                "signmethod" => &mut read.sign_method,
                "timestamp" => &mut read.timestamp,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Some(read)
    }
}

/// Of `1572574909697` and `1572574909697.123`.
fn milliseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits(whole) && is_digits(fraction) { whole.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JAVA: &str = "d1{ip=10.0.0.7,version=2.3,compress=Disabled}|securemode=2,signmethod=sha256,timestamp=1572574909697|";
    const PYTHON: &str = "d1|securemode=2,signmethod=hmacsha256,timestamp=1572574909697.123|";
    const PLAIN: &str = "d1|securemode=2,signmethod=hmacsha256,timestamp=1572574909697|";
    const C: &str = "p1.d1|securemode=2,signmethod=sha256,timestamp=2524608000000|";
    const SHA256_OF_PLAIN: &str = "541af088f5232a7a3696b09a31697a6242b99c170895e552c1287041352cbfc4";

    fn read(client_id: &str) -> Login<'_> {
        Login::read(client_id, "d1&p1").unwrap_or_else(|| panic!("{client_id}"))
    }

    // The expected digits were computed with openssl and with Python's hashlib.

    #[test]
    fn what_each_of_the_platforms_libraries_sends_is_let_in() {
        for (client_id, password) in [
            (JAVA, "c2de0d7797e8f318c6953defd683a81578065713fd6a3fc789323320911a26c8"),
            (PYTHON, "6fab0e2f68c158c2b904955c8d697417ee96ca64b0a143653793ed17157c4dfa"),
            (PLAIN, SHA256_OF_PLAIN),
            ("d1|securemode=2,signmethod=sha256,timestamp=1572574909697|", &SHA256_OF_PLAIN.to_ascii_uppercase()),
            (C, "479BBF20257D5A5CAD62093AD74EAC98D06CD56481748A128E26A2A69C0975CD"),
            ("d1|securemode=2,signmethod=hmacsha1,timestamp=1572574909697|", "44D8CCFEA7BC078A872B332565B4935AC87BC9BB"),
            ("d1|securemode=2,signmethod=md5,timestamp=1572574909697|", "ff2fc733ed0b44d7b207cde55087f3a9"),
        ] {
            assert!(read(client_id).signature_holds(password.as_bytes(), b"s3cret"), "{client_id}");
        }
    }

    #[test]
    fn a_login_names_its_device_and_how_it_was_signed() {
        let login = read(JAVA);
        assert_eq!((login.product_key, login.device_key), ("p1", "d1"));
        assert_eq!(login.client_id_name, "d1{ip=10.0.0.7,version=2.3,compress=Disabled}");
        assert_eq!((login.timestamp_ms, login.sign_method), (1_572_574_909_697, SignMethod::Sha256));
        assert_eq!(read(PYTHON).timestamp_ms, 1_572_574_909_697);
        // The product key is what follows the last ampersand, the parameters are what follows the last bar.
        let login = Login::read("a|b&c|timestamp=1|", "a|b&c&p1").unwrap();
        assert_eq!((login.product_key, login.device_key, login.client_id_name), ("p1", "a|b&c", "a|b&c"));
    }

    #[test]
    fn parameters_come_in_any_order_among_unknown_ones_and_two_have_a_default() {
        for client_id in [
            "d1|timestamp=1572574909697,signmethod=hmacsha256,securemode=2|",
            "d1|v=1,timestamp=1572574909697,_ss,=,lan=C,securemode=2,signmethod=SHA256,|",
            "d1|SecureMode=2,signMethod=HmacSha256,timestamp=1572574909697",
            "d1|timestamp=1572574909697|",
        ] {
            assert!(read(client_id).signature_holds(SHA256_OF_PLAIN.as_bytes(), b"s3cret"), "{client_id}");
        }
    }

    #[test]
    fn what_is_no_credential_of_this_kind_is_not_read() {
        for (client_id, username) in [
            ("", ""),
            ("d1", "d1&p1"),
            ("|", "d1&p1"),
            ("||", "d1&p1"),
            ("d1|", "d1&p1"),
            ("d1||", "d1&p1"),
            ("|timestamp=1|", "d1&p1"),
            ("d1|timestamp=1|", ""),
            ("d1|timestamp=1|", "d1"),
            ("d1|timestamp=1|", "&"),
            ("d1|timestamp=1|", "d1&"),
            ("d1|timestamp=1|", "&p1"),
            ("d1|timestamp=1|", "d/1&p1"),
            ("d1|timestamp=1|", "+&p1"),
            ("d1|timestamp=1|", "d1&#"),
            ("d1|timestamp=1|", "d1\n&p1"),
            ("d1|securemode=2,signmethod=sha256|", "d1&p1"),
            ("d1|timestamp=|", "d1&p1"),
            ("d1|timestamp=-1|", "d1&p1"),
            ("d1|timestamp=+1|", "d1&p1"),
            ("d1|timestamp= 1|", "d1&p1"),
            ("d1|timestamp=1.|", "d1&p1"),
            ("d1|timestamp=1.2.3|", "d1&p1"),
            ("d1|timestamp=1e12|", "d1&p1"),
            ("d1|timestamp=٣|", "d1&p1"),
            ("d1|timestamp=99999999999999999999|", "d1&p1"),
            ("d1|timestamp=1,timestamp=1|", "d1&p1"),
            ("d1|signmethod=sha512,timestamp=1|", "d1&p1"),
            ("d1|signmethod=,timestamp=1|", "d1&p1"),
            // With a product's secret.
            ("d1|securemode=3,signmethod=sha256,timestamp=1|", "d1&p1"),
            ("p1|securemode=4,signmethod=sha256,timestamp=1|", "%channel%&p1"),
        ] {
            assert_eq!(Login::read(client_id, username), None, "{client_id:?} {username:?}");
        }
    }

    #[test]
    fn whatever_was_signed_must_be_as_it_was_signed() {
        let holds = |client_id: &str, username: &str, password: &[u8], secret: &[u8]| {
            Login::read(client_id, username).unwrap_or_else(|| panic!("{client_id} {username}")).signature_holds(password, secret)
        };
        let password = SHA256_OF_PLAIN.as_bytes();
        assert!(holds(PLAIN, "d1&p1", password, b"s3cret"));
        for (client_id, username, secret) in [
            (PLAIN, "d1&p1", "S3cret"),
            (PLAIN, "d1&p1", "s3cret "),
            (PLAIN, "d2&p1", "s3cret"),
            (PLAIN, "d1&p2", "s3cret"),
            (PYTHON, "d1&p1", "s3cret"),
            (JAVA, "d1&p1", "s3cret"),
            ("d2|securemode=2,signmethod=hmacsha256,timestamp=1572574909697|", "d1&p1", "s3cret"),
            ("d1|securemode=2,signmethod=hmacsha256,timestamp=01572574909697|", "d1&p1", "s3cret"),
            ("d1|securemode=2,signmethod=sha1,timestamp=1572574909697|", "d1&p1", "s3cret"),
        ] {
            assert!(!holds(client_id, username, password, secret.as_bytes()), "{client_id} {username} {secret}");
        }
        let long = [password, b"0"].concat();
        let native = b"0123456789abcdef.0123456789abcdef0123456789abcdef0123456789a";
        for password in [b"".as_slice(), b"s3cret", &password[1..], &long, native, &[0xff; 64], &[b'0'; 64]] {
            assert!(!holds(PLAIN, "d1&p1", password, b"s3cret"), "{password:?}");
        }
    }

    #[test]
    fn a_device_without_a_secret_cannot_sign() {
        // The right digits for an empty secret.
        assert!(!read(PLAIN).signature_holds(b"045ce45a089b452697814295ce60a85c9efb8fb4abbe58e5502a71a5683266bf", b""));
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_a_login_fail(client_id: String, username: String, password: Vec<u8>, secret: Vec<u8>) {
            let _ = Login::read(&client_id, &username);
            if let Some(login) = Login::read(&format!("{client_id}|timestamp=1|"), &format!("{username}&p1")) {
                prop_assert!(!login.signature_holds(&password, &secret));
            }
        }

        #[test]
        fn no_other_password_holds(at in 0usize..64, byte: u8) {
            let mut password = SHA256_OF_PLAIN.as_bytes().to_vec();
            password[at] = byte;
            let same = password.eq_ignore_ascii_case(SHA256_OF_PLAIN.as_bytes());
            prop_assert_eq!(read(PLAIN).signature_holds(&password, b"s3cret"), same);
        }
    }
}
