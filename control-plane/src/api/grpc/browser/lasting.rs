//! What lasts: streams, which end when what they were opened with does.

use std::future::pending;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::{Stream, StreamExt, unfold};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::{Call, Streamed, deadline};
use crate::api::ws::Counted;
use crate::clock;
use crate::error::Error;

use super::refusal::{Refusal, status_of};

/// Resolves with what a caller is told when their stream is over before its time.
pub(super) type End = Shared<BoxFuture<'static, Status>>;

impl Call {
    /// One more stream of this caller: as many as they may have sockets.
    pub(super) fn counted(&self) -> Result<Counted, Refusal> {
        Ok(self.api.sockets.count(self.caller.0.id)?)
    }

    /// Resolves when the caller may or will wait no longer, or this process stops.
    pub(super) fn until_over(&self) -> End {
        let Self {
            api,
            caller,
            deadline,
        } = self.clone();
        let end = async move {
            let expires = async {
                match caller.0.good_until {
                    Some(at) => sleep_until(Instant::now() + at.since(clock::now())).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = api.accounts.until_over(&caller.0) => status_of(Error::Unauthenticated),
                () = expires => status_of(Error::Unauthenticated),
                () = deadline.passed() => deadline::exceeded(),
                () = api.sessions.tasks().stopping() => {
                    Status::unavailable("the server restarts; call again")
                }
            }
        };
        end.boxed().shared()
    }

    /// What is told, for as long as it may be.
    pub(super) fn lasting<T: Send + 'static>(
        &self,
        counted: Counted,
        told: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Streamed<T> {
        let lasting = (told.boxed(), self.until_over(), counted);
        unfold(Some(lasting), |lasting| async {
            let (mut told, mut end, counted) = lasting?;
            tokio::select! {
                biased;
                status = &mut end => Some((Err(status), None)),
                item = told.next() => match item? {
                    Ok(item) => Some((Ok(item), Some((told, end, counted)))),
                    Err(status) => Some((Err(status), None)),
                },
            }
        })
        .boxed()
    }
}
