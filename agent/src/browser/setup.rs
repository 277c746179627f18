//! How a tab is set up: what makes it tell its events, and what the session's
//! options ask for.

use browserfleet_proto::action::{Code, Rejection, SessionOptions};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use headless_chrome::protocol::cdp::types::Method;
use headless_chrome::protocol::cdp::{Emulation, Inspector, Network, Page, Runtime};
use serde::Serialize;
use tokio::time::Instant;

use super::cdp::{CallError, Client};

/// What every tab of a session gets.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    metrics: Option<Emulation::SetDeviceMetricsOverride>,
    agent: Option<Emulation::SetUserAgentOverride>,
    timezone: Option<Emulation::SetTimezoneOverride>,
    locale: Option<Emulation::SetLocaleOverride>,
    pages_watched: bool,
}

impl Setup {
    /// What these options ask for. `own_agent` is Chrome's own `User-Agent`.
    pub(super) fn new(options: &SessionOptions, own_agent: &str) -> Self {
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let locale = filled(&options.locale);
        let agent = filled(&options.user_agent);
        Self {
            metrics: Some(Emulation::SetDeviceMetricsOverride {
                width: options.viewport.width,
                height: options.viewport.height,
                device_scale_factor: options.viewport.scale,
                mobile: false,
                scale: None,
                screen_width: Some(options.viewport.width),
                screen_height: Some(options.viewport.height),
                position_x: None,
                position_y: None,
                dont_set_visible_size: None,
                screen_orientation: None,
                viewport: None,
                display_feature: None,
                device_posture: None,
            }),
            agent: (agent.is_some() || locale.is_some()).then(|| Emulation::SetUserAgentOverride {
                user_agent: agent.unwrap_or_else(|| own_agent.to_owned()),
                accept_language: locale.clone(),
                platform: None,
                user_agent_metadata: None,
            }),
            timezone: filled(&options.timezone)
                .map(|timezone_id| Emulation::SetTimezoneOverride { timezone_id }),
            // ICU's form of BCP 47.
            locale: locale.map(|it| Emulation::SetLocaleOverride {
                locale: Some(it.replace('-', "_")),
            }),
            pages_watched: false,
        }
    }

    /// Whether tabs tell of their console and their requests.
    pub(super) fn watch_pages(&mut self, watched: bool) {
        self.pages_watched = watched;
    }

    /// Tells a tab whether it is watched. What it is found to lack, its watchers miss.
    pub(super) fn post_watching(&self, client: &Client, session: &str) {
        let session = Some(session);
        let posted = if self.pages_watched {
            client.post(session, &Runtime::Enable(None)) && client.post(session, &requests_alone())
        } else {
            client.post(session, &Runtime::Disable(None))
                && client.post(session, &Network::Disable(None))
        };
        if !posted {
            tracing::debug!("the browser had no room to be told who watches");
        }
    }

    /// Sets up a tab that waits for it, and lets it run. Once this returns, the
    /// tab's own process tells its events too.
    pub(super) async fn start(&self, client: &Client, session: &str, deadline: Instant) {
        // All in one go: a paused tab answers some only once it runs, and does them
        // in their order before that.
        if self.pages_watched {
            self.post_watching(client, session);
        }
        let run = Runtime::RunIfWaitingForDebugger(None);
        let (events, options, ran) = tokio::join!(
            biased;
            enable_events(client, session, deadline),
            self.apply(client, session, deadline),
            client.call(Some(session), &run, deadline),
        );
        if let Err(error) = events.and(ran.map(drop)) {
            tracing::debug!(%error, "a tab was gone before it was set up");
        }
        if let Err(rejection) = options {
            tracing::debug!(reason = rejection.message, "a tab lacks an option");
        }
    }

    /// Applies the options, all at once, and says what Chrome did not take.
    pub(super) async fn apply(
        &self,
        client: &Client,
        session: &str,
        deadline: Instant,
    ) -> Result<(), Rejection> {
        let mut calls = Vec::new();
        if let Some(it) = &self.metrics {
            calls.push(asked(client, session, it, Code::ViewportRefused, deadline));
        }
        if let Some(it) = &self.agent {
            calls.push(asked(client, session, it, Code::UserAgentRefused, deadline));
        }
        if let Some(it) = &self.timezone {
            calls.push(asked(client, session, it, Code::TimezoneRefused, deadline));
        }
        if let Some(it) = &self.locale {
            calls.push(asked(client, session, it, Code::LocaleRefused, deadline));
        }
        try_join_all(calls).await.map(drop)
    }
}

fn asked<'a, M: Method + Serialize + Sync>(
    client: &'a Client,
    session: &'a str,
    call: &'a M,
    refused: Code,
    deadline: Instant,
) -> BoxFuture<'a, Result<(), Rejection>>
where
    M::ReturnObject: Send,
{
    async move {
        match client.call(Some(session), call, deadline).await {
            Ok(_) => Ok(()),
            Err(CallError::Protocol { message, .. }) => Err(Rejection::new(refused, message)),
            Err(error) => Err(Rejection::new(Code::LaunchFailed, error.to_string())),
        }
    }
    .boxed()
}

/// That requests are made and fail; their bodies are not kept.
fn requests_alone() -> Network::Enable {
    Network::Enable {
        max_total_buffer_size: Some(0),
        max_resource_buffer_size: Some(0),
        max_post_data_size: Some(0),
        report_direct_socket_traffic: None,
        enable_durable_messages: None,
    }
}

async fn enable_events(client: &Client, session: &str, deadline: Instant) -> Result<(), CallError> {
    let session = Some(session);
    let page = Page::Enable {
        enable_file_chooser_opened_event: None,
    };
    let lifecycle = Page::SetLifecycleEventsEnabled { enabled: true };
    let inspector = Inspector::Enable(None);
    tokio::try_join!(
        client.call(session, &page, deadline),
        client.call(session, &lifecycle, deadline),
        client.call(session, &inspector, deadline),
    )?;
    Ok(())
}
