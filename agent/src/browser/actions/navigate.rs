//! Goes to a URL and waits for the moment that was asked for.

use browserfleet_proto::action::{Code, Navigate, Navigated, Rejection, Timing, WaitUntil};
use headless_chrome::protocol::cdp::Page as page_domain;
use tokio::time::Instant;

use super::{network, rejection, state};
use crate::browser::page::{CallError, Page};
use crate::browser::tabs::Tab;

pub(super) async fn perform(
    page: &Page,
    navigate: &Navigate,
    deadline: Instant,
) -> Result<Navigated, Rejection> {
    if !network::may_open(&navigate.url) {
        return Err(Rejection::new(
            Code::UrlBlocked,
            "only http, https and about:blank may be opened",
        ));
    }
    let started = Instant::now();
    // Until it is known to have gone well: whatever still loads is stopped.
    let stop = Stop { page };
    let tab = arrive(page, navigate, deadline)
        .await
        .map_err(|failed| failed.into_rejection(navigate))?;
    let total = started.elapsed();
    std::mem::forget(stop);
    let document = state::document(page, deadline).await?;
    Ok(Navigated {
        url: document.url,
        title: document.title,
        status: (document.status != 0).then_some(document.status),
        timing: Timing {
            commit_ms: milliseconds(tab.committed_at.saturating_duration_since(started)),
            total_ms: milliseconds(total),
        },
    })
}

enum Failed {
    Call(CallError),
    Network { error: String, download: bool },
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Failed {
    fn into_rejection(self, navigate: &Navigate) -> Rejection {
        match self {
            Self::Network { error, download } => {
                network::rejection(&error, &navigate.url, download)
            }
            Self::Call(CallError::Deadline) => Rejection::new(
                Code::NavigationTimeout,
                format!(
                    "{} did not get to `{}` before the deadline",
                    navigate.url,
                    name(navigate.wait_until)
                ),
            ),
            Self::Call(error) => rejection(error),
        }
    }
}

async fn arrive(page: &Page, navigate: &Navigate, deadline: Instant) -> Result<Tab, Failed> {
    let call = page_domain::Navigate {
        url: navigate.url.clone(),
        referrer: (!navigate.referer.is_empty()).then(|| navigate.referer.clone()),
        transition_Type: None,
        frame_id: None,
        referrer_policy: None,
    };
    let answer = page.call(call, deadline).await?;
    let download = answer.is_download == Some(true);
    if let Some(error) = answer.error_text.filter(|it| !it.is_empty()) {
        return Err(Failed::Network { error, download });
    }
    let Some(loader) = answer.loader_id else {
        // The same document: only its fragment changed.
        return Ok(page.state()?);
    };
    let there = |tab: &Tab| tab.got_there(&loader, navigate.wait_until);
    Ok(page.until(deadline, there).await?)
}

/// Stops what is loading, unless forgotten.
struct Stop<'a> {
    page: &'a Page,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.page.post(page_domain::StopLoading(None));
    }
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    // Microseconds are what can be told apart.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn name(wait_until: WaitUntil) -> &'static str {
    match wait_until {
        WaitUntil::Commit => "commit",
        WaitUntil::DomContentLoaded => "domcontentloaded",
        WaitUntil::Load => "load",
        WaitUntil::NetworkIdle => "networkidle",
    }
}
