//! Which addresses may be called. A subscription is somebody's wish; where this server sends is the operator's decision.

use ::http::Uri;
use std::fmt;

/// The beginnings of URLs that the operator allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(Vec<Beginning>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Beginning {
    scheme: String,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
}

/// Why an address is not called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedError {
    /// Not an absolute `http` or `https` URL, or one with a user in it.
    NotAUrl,
    NotAllowed,
}

impl fmt::Display for AllowedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotAUrl => "expected an absolute http:// or https:// URL without a user in it",
            Self::NotAllowed => "the operator has not allowed this address; see [webhooks] allowed in the configuration",
        })
    }
}

impl Allowed {
    /// From the beginnings as configured, such as `https://hooks.example.com` or `http://127.0.0.1:9000/firmware`.
    pub fn new(beginnings: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            let uri: Uri = text.parse().map_err(|_| text.clone())?;
            // A query would seem to bind, and doesn't.
            Beginning::of(&uri).filter(|_| uri.query().is_none()).ok_or_else(|| text.clone())
        };
        beginnings.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The URL, where it may be called.
    pub fn check(&self, url: &str) -> Result<Uri, AllowedError> {
        let uri: Uri = url.parse().map_err(|_| AllowedError::NotAUrl)?;
        let wanted = Beginning::of(&uri).ok_or(AllowedError::NotAUrl)?;
        if self.0.iter().any(|allowed| allowed.covers(&wanted)) { Ok(uri) } else { Err(AllowedError::NotAllowed) }
    }
}

impl Beginning {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = match &*scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let path = uri.path();
        // A path that climbs would leave what was allowed.
        let climbs = |part: &str| matches!(part.split(';').next(), Some("." | "..")) || part.contains(['%', '\\']);
        if path.split('/').any(climbs) {
            return None;
        }
        Some(Self {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(default_port),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Whole path segments count: `/hooks` covers `/hooks/a` and not `/hooks-of-others`.
    fn covers(&self, wanted: &Self) -> bool {
        let rest = wanted.path.strip_prefix(&*self.path);
        (&self.scheme, &self.host, self.port) == (&wanted.scheme, &wanted.host, wanted.port)
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Allowed {
        Allowed::new(&["https://hooks.example.com".into(), "http://127.0.0.1:9000/firmware/".into()]).unwrap()
    }

    #[test]
    fn what_begins_as_allowed_is_called() {
        for url in [
            "https://hooks.example.com",
            "https://HOOKS.example.com:443/a/b?c=d",
            "http://127.0.0.1:9000/firmware",
            "http://127.0.0.1:9000/firmware/notify?x=1",
        ] {
            assert!(allowed().check(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for (url, error) in [
            ("http://hooks.example.com/", AllowedError::NotAllowed),
            ("https://hooks.example.com:444/", AllowedError::NotAllowed),
            ("https://hooks.example.com.evil.test/", AllowedError::NotAllowed),
            ("https://169.254.169.254/latest", AllowedError::NotAllowed),
            ("http://127.0.0.1:9000/", AllowedError::NotAllowed),
            ("http://127.0.0.1:9000/firmware-of-others", AllowedError::NotAllowed),
            ("http://127.0.0.1:9000/firmware/../admin", AllowedError::NotAUrl),
            ("http://127.0.0.1:9000/firmware/%2e%2e/admin", AllowedError::NotAUrl),
            ("http://127.0.0.1:9000/firmware/..;/admin", AllowedError::NotAUrl),
            ("http://127.0.0.1:9000/firmware/..\\admin", AllowedError::NotAUrl),
            ("https://hooks.example.com@evil.test/", AllowedError::NotAUrl),
            ("ftp://hooks.example.com/", AllowedError::NotAUrl),
            ("/firmware", AllowedError::NotAUrl),
            ("", AllowedError::NotAUrl),
        ] {
            assert_eq!(allowed().check(url), Err(error), "{url}");
        }
        assert_eq!(Allowed::default().check("https://hooks.example.com"), Err(AllowedError::NotAllowed));
        assert_eq!(Allowed::new(&["hooks.example.com".into()]), Err("hooks.example.com".into()));
        assert!(Allowed::new(&["https://hooks.example.com/?key=1".into()]).is_err());
    }
}
