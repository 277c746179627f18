//! What is in a mail.

/// A mail as one reads it: quoted-printable lines joined and decoded.
#[must_use]
pub fn readable(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw).replace("=\r\n", "");
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
