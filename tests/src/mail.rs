//! What is in a mail.

/// A mail as one reads it: what of it is quoted-printable is decoded.
#[must_use]
pub fn readable(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut parts = text.split("Content-Transfer-Encoding: ");
    let mut readable = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.strip_prefix("quoted-printable") {
            Some(part) => readable.push_str(&decoded(part)),
            None => readable.push_str(part),
        }
    }
    readable
}

/// Lines joined, and bytes that were written in hexadecimal.
fn decoded(part: &str) -> String {
    let text = part.replace("=\r\n", "");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .filter(|_| *first == b'=')
            .and_then(|it| std::str::from_utf8(it).ok())
            .and_then(|it| u8::from_str_radix(it, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The token of the link to `page`.
#[must_use]
pub fn token(mail: &str, page: &str) -> Option<String> {
    let (_, after) = mail.split_once(&format!("/{page}#token="))?;
    let end = after.find(|it: char| !(it.is_ascii_alphanumeric() || it == '-' || it == '_'))?;
    Some(after[..end].to_owned())
}
