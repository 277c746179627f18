//! One tab, as actions see it: calls under a deadline that fail at once when the
//! tab is gone, and its state to wait for.

use headless_chrome::protocol::cdp::types::Method;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::cdp::Client;
pub(super) use super::cdp::{CallError, decode};
use super::tabs::{Tab, Tabs};

/// A tab. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Page {
    client: Client,
    tabs: watch::Receiver<Tabs>,
    target: String,
    session: String,
    /// Device pixels per CSS pixel, as the session set it up.
    scale: f64,
}

impl Page {
    pub(super) fn new(client: Client, tabs: watch::Receiver<Tabs>, tab: &Tab, scale: f64) -> Self {
        Self {
            client,
            tabs,
            target: tab.target.clone(),
            session: tab.session.clone(),
            scale,
        }
    }

    pub(super) fn target_id(&self) -> &str {
        &self.target
    }

    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// Makes one call and reads its answer.
    pub(super) async fn call<M: Method + Serialize>(
        &self,
        method: M,
        deadline: Instant,
    ) -> Result<M::ReturnObject, CallError> {
        decode(&self.exchange(method, deadline).await?)
    }

    /// Makes one call and gives the answer's frame, for [`decode`].
    pub(super) async fn exchange<M: Method + Serialize>(
        &self,
        method: M,
        deadline: Instant,
    ) -> Result<Vec<u8>, CallError> {
        tokio::select! {
            biased;
            answer = self.client.exchange(Some(&self.session), &method, deadline) => answer,
            lost = self.lost() => Err(lost),
        }
    }

    /// Makes a call whose answer nobody needs.
    pub(super) fn post<M: Method + Serialize>(&self, method: M) {
        if !self.client.post(Some(&self.session), &method) {
            tracing::debug!(method = M::NAME, "the browser takes no more calls");
        }
    }

    /// This tab's state now.
    pub(super) fn state(&self) -> Result<Tab, CallError> {
        let tabs = self.tabs.borrow();
        let tab = tabs.of_session(&self.session).ok_or(CallError::Closed)?;
        if tab.crashed {
            return Err(CallError::Crashed);
        }
        Ok(tab.clone())
    }

    /// Waits until this tab's state is so.
    pub(super) async fn until(
        &self,
        deadline: Instant,
        mut so: impl FnMut(&Tab) -> bool,
    ) -> Result<Tab, CallError> {
        let mut tabs = self.tabs.clone();
        let mut found = Err(CallError::Closed);
        let waiting = tabs.wait_for(|tabs| match tabs.of_session(&self.session) {
            None => true,
            Some(tab) if tab.crashed => {
                found = Err(CallError::Crashed);
                true
            }
            Some(tab) if so(tab) => {
                found = Ok(tab.clone());
                true
            }
            Some(_) => false,
        });
        match timeout_at(deadline, waiting).await {
            Ok(Ok(_)) => found,
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::Deadline),
        }
    }

    /// Everything that changes from now on; of all tabs.
    pub(super) fn changes(&self) -> Changes {
        let mut tabs = self.tabs.clone();
        tabs.borrow_and_update();
        Changes(tabs)
    }

    async fn lost(&self) -> CallError {
        let mut tabs = self.tabs.clone();
        let lost = tabs
            .wait_for(|tabs| tabs.of_session(&self.session).is_none_or(|tab| tab.crashed))
            .await;
        match lost {
            // Its tab may have been closed: the browser lives.
            Ok(tabs) if !tabs.is_closed() => CallError::Crashed,
            _ => CallError::Closed,
        }
    }
}

/// Changes of the tabs since this was made.
pub(super) struct Changes(watch::Receiver<Tabs>);

impl Changes {
    /// The next one; at once if there was one already.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<(), CallError> {
        match timeout_at(deadline, self.0.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CallError::Closed),
            Err(_) => Err(CallError::Deadline),
        }
    }
}
