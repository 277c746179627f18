//! Commands under way on one socket or stream, by the ids that their client gave them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;

/// Longest id that a client may give something, in bytes: a UUID with a name before it.
const ID_BYTES_MAX: usize = 128;

/// Whether a client may call something that.
///
/// # Errors
/// [`Error::Invalid`]
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    if id.len() > ID_BYTES_MAX {
        return Err(Error::invalid(
            "id",
            format!("longer than {ID_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// Commands under way. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub(super) struct UnderWay {
    named: Arc<Mutex<HashMap<String, CancellationToken>>>,
    all: CancellationToken,
}

impl UnderWay {
    /// `None`: one of this id is under way.
    pub(super) fn begin(&self, id: Option<&str>) -> Option<CancellationToken> {
        let token = self.all.child_token();
        if let Some(id) = id {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            if named.contains_key(id) {
                return None;
            }
            named.insert(id.to_owned(), token.clone());
        }
        Some(token)
    }

    /// This one is done.
    pub(super) fn finish(&self, id: Option<&str>) {
        if let Some(id) = id {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            named.remove(id);
        }
    }

    /// Takes one back, if it has not begun. Whether there was one.
    pub(super) fn cancel(&self, id: &str) -> bool {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.get(id).map(CancellationToken::cancel).is_some()
    }

    /// Resolves once all were taken back.
    pub(super) async fn left(&self) {
        self.all.cancelled().await;
    }

    /// Takes all back when it is dropped.
    pub(super) fn leaving(&self) -> DropGuard {
        self.all.clone().drop_guard()
    }
}
