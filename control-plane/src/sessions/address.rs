//! Which addresses a session may open: http, https and `about:blank`. Anything
//! else (`file:`, `view-source:`, `chrome:`, `javascript:`, `data:`, …) is
//! refused before an agent hears of it. `data:` is refused too: a page of the
//! caller's own making is what `execute` on `about:blank` is for.

use browserfleet_proto::limits;
use url::Url;

use crate::error::Error;

/// The address in its canonical form.
///
/// # Errors
/// [`Error::Invalid`] where it is no absolute URL, [`Error::UrlBlocked`] where
/// its scheme is not one that sessions open.
pub fn check(text: &str) -> Result<String, Error> {
    if text.len() > limits::URL_BYTES_MAX {
        return Err(Error::invalid(
            "url",
            format!("longer than {} bytes", limits::URL_BYTES_MAX),
        ));
    }
    let url = Url::parse(text)
        .map_err(|error| Error::invalid("url", format!("not an absolute URL: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url.into()),
        "about" if url.path() == "blank" => Ok(url.into()),
        other => Err(Error::UrlBlocked(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn web_addresses_pass() {
        for (text, canonical) in [
            ("http://example.org", "http://example.org/"),
            ("HTTPS://EXAMPLE.org/a b", "https://example.org/a%20b"),
            ("about:blank", "about:blank"),
        ] {
            assert_eq!(check(text).expect("it passes"), canonical);
        }
    }

    #[test]
    fn other_schemes_are_blocked_however_they_are_spelled() {
        for text in [
            "file:///etc/passwd",
            "FILE:/etc/passwd",
            " \tfile:///etc/passwd",
            "view-source:http://example.org",
            "chrome://version",
            "devtools://devtools/bundled/inspector.html",
            "filesystem:http://example.org/temporary/a",
            "java\nscript:alert(1)",
            "data:text/html,<p>",
            "about:settings",
            "ftp://example.org/",
        ] {
            assert_eq!(
                check(text).expect_err("it is blocked").code(),
                "url_blocked",
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_passes_has_a_scheme_that_sessions_open(text in "\\PC{0,60}") {
            if let Ok(url) = check(&text) {
                let web = url.starts_with("http://") || url.starts_with("https://");
                prop_assert!(web || url.starts_with("about:blank"));
            }
        }
    }
}
