//! Titles of tabs while somebody watches: Chrome does not tell when a document changes
//! its title, so it is asked. The answer is the browser's own, so a stuck page has one.

use std::time::Duration;

use headless_chrome::protocol::cdp::Target;
use tokio::time::{Instant, sleep};

use super::cdp::CallError;
use super::live::Stage;

/// How often it is asked: soon enough for a tab's label.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long the browser may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks until the browser is gone.
pub(super) async fn follow(stage: Stage) {
    loop {
        let latest = Instant::now() + ANSWER_WITHIN;
        let asked = Target::GetTargets { filter: None };
        match stage.client.call(None, &asked, latest).await {
            Ok(answer) => stage.learn(answer.target_infos),
            Err(CallError::Closed) => return,
            Err(error) => tracing::debug!(%error, "the browser did not name its tabs"),
        }
        sleep(ASK_EVERY).await;
    }
}

impl Stage {
    fn learn(&self, targets: Vec<Target::TargetInfo>) {
        let news = self.tabs.send_if_modified(|tabs| {
            let told = targets.into_iter().filter_map(|it| tabs.told(it));
            told.count() > 0
        });
        if news {
            self.events.compare(&self.tabs.borrow());
        }
    }
}
