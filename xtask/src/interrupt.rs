//! Ctrl-C, SIGTERM and the terminal's end, counted: the first asks for a clean stop, the second for any stop.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::failure::{Context, Outcome};

/// Hears the signals that ask this command to stop, from its creation on.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    pub fn listen() -> Outcome<Self> {
        let (count, receiver) = watch::channel(0);
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        // Under `nohup` the end of the terminal is meant to be survived.
        if !hangup_is_ignored() {
            kinds.push(SignalKind::hangup());
        }
        for kind in kinds {
            let mut stream = signal(kind).context("cannot listen for signals")?;
            let count = count.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Ok(Self(receiver))
    }

    /// Waits until a stop was asked for `times` times.
    pub async fn asked(&mut self, times: u32) {
        if self.0.wait_for(|count| *count >= times).await.is_err() {
            // Nobody is left to ask.
            std::future::pending::<()>().await;
        }
    }

    /// How often a stop was asked for so far.
    pub fn times(&self) -> u32 {
        *self.0.borrow()
    }
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
