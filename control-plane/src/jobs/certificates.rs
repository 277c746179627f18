//! Says in the log which certificates somebody has to replace, from a month before
//! their end. Nothing else is done about it: what still works goes on.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock;
use crate::domain::certificate::{Certificate, Standing};
use crate::tasks::Tasks;

/// Often enough for a month's notice, and seldom enough to be read.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn run(certificates: Vec<Certificate>, tasks: Tasks) {
    loop {
        for certificate in &certificates {
            tell(certificate);
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = tasks.stopping() => return,
        }
    }
}

fn tell(certificate: &Certificate) {
    let now = clock::wall();
    let days_left = certificate.days_left(now).floor();
    let Certificate { purpose, ends_at } = certificate;
    match certificate.standing(now) {
        Standing::Good => {}
        Standing::EndsSoon => tracing::warn!(
            certificate = %purpose, %ends_at, days_left,
            "a certificate ends soon; replace it and restart"
        ),
        Standing::Ended => tracing::warn!(
            certificate = %purpose, %ends_at, days_left,
            "a certificate has ended; replace it and restart"
        ),
    }
}
