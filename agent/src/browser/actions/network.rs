//! What Chrome's network errors mean to a caller. Pure.

use browserfleet_proto::action::{Code, Rejection};

/// Whether a session may be sent to a URL: http, https and `about:blank`.
pub(in crate::browser) fn may_open(url: &str) -> bool {
    // As a URL parser does: white space around it and tabs within do not count.
    let url = url.trim_matches(|it: char| it <= ' ');
    let scheme_is = |scheme: &str| {
        url.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let blank = url.split(['#', '?']).next();
    scheme_is("http://") || scheme_is("https://") || blank == Some("about:blank")
}

/// The rejection for the `errorText` of a navigation.
pub(super) fn rejection(error: &str, url: &str, download: bool) -> Rejection {
    let name = error.strip_prefix("net::").unwrap_or(error);
    let code = if download {
        Code::NavigationDownload
    } else {
        code(name)
    };
    let what = match code {
        Code::NavigationDownload => "the URL is a download",
        Code::NavigationAborted => "the navigation was given up, or its answer has no document",
        Code::NameNotResolved => "the host's name is not known",
        Code::ConnectionRefused => "nobody listens there",
        Code::ConnectionFailed => "the connection failed",
        Code::TlsError => "TLS failed",
        Code::TooManyRedirects => "the server redirects in a circle",
        Code::UrlBlocked => "the address is blocked",
        _ => "the navigation failed",
    };
    Rejection::new(code, format!("{what}: {name} at {url}"))
}

fn code(name: &str) -> Code {
    match name {
        "ERR_NAME_NOT_RESOLVED" | "ERR_NAME_RESOLUTION_FAILED" | "ERR_DNS_TIMED_OUT" => {
            Code::NameNotResolved
        }
        "ERR_CONNECTION_REFUSED" => Code::ConnectionRefused,
        "ERR_TOO_MANY_REDIRECTS" => Code::TooManyRedirects,
        "ERR_ABORTED" => Code::NavigationAborted,
        "ERR_INTERNET_DISCONNECTED"
        | "ERR_NETWORK_CHANGED"
        | "ERR_NETWORK_IO_SUSPENDED"
        | "ERR_EMPTY_RESPONSE"
        | "ERR_TIMED_OUT"
        | "ERR_SOCKET_NOT_CONNECTED" => Code::ConnectionFailed,
        "ERR_UNSAFE_PORT" | "ERR_DISALLOWED_URL_SCHEME" | "ERR_UNKNOWN_URL_SCHEME" => {
            Code::UrlBlocked
        }
        _ if name.starts_with("ERR_BLOCKED_BY_") => Code::UrlBlocked,
        _ if ["ERR_CERT_", "ERR_SSL_", "ERR_BAD_SSL_"]
            .iter()
            .any(|it| name.starts_with(it)) =>
        {
            Code::TlsError
        }
        _ if ["ERR_CONNECTION_", "ERR_ADDRESS_"]
            .iter()
            .any(|it| name.starts_with(it)) =>
        {
            Code::ConnectionFailed
        }
        _ => Code::NavigationFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code() {
        for (error, expected) in [
            ("net::ERR_NAME_NOT_RESOLVED", Code::NameNotResolved),
            ("net::ERR_CONNECTION_REFUSED", Code::ConnectionRefused),
            ("net::ERR_CONNECTION_RESET", Code::ConnectionFailed),
            ("net::ERR_ADDRESS_UNREACHABLE", Code::ConnectionFailed),
            ("net::ERR_CERT_DATE_INVALID", Code::TlsError),
            ("net::ERR_SSL_PROTOCOL_ERROR", Code::TlsError),
            ("net::ERR_TOO_MANY_REDIRECTS", Code::TooManyRedirects),
            ("net::ERR_BLOCKED_BY_ADMINISTRATOR", Code::UrlBlocked),
            ("net::ERR_ABORTED", Code::NavigationAborted),
            ("net::ERR_INVALID_RESPONSE", Code::NavigationFailed),
            ("", Code::NavigationFailed),
        ] {
            assert_eq!(
                rejection(error, "http://a", false).code,
                expected,
                "{error}"
            );
        }
        let download = rejection("net::ERR_ABORTED", "http://a", true);
        assert_eq!(download.code, Code::NavigationDownload);
    }

    #[test]
    fn only_the_web_and_the_blank_page_may_be_opened() {
        for url in [
            "http://a",
            "HTTPS://a/b",
            "about:blank",
            "about:blank#x",
            " http://a",
        ] {
            assert!(may_open(url), "{url}");
        }
        for url in [
            "",
            "file:///etc/passwd",
            "javascript:1",
            "java\tscript:1",
            "data:text/html,x",
            "chrome://version",
            "view-source:http://a",
            "about:version",
            "about:blankx",
            "blob:http://a",
            "a",
            "http:",
            "\u{202e}http://",
        ] {
            assert!(!may_open(url), "{url}");
        }
    }
}
