//! Episodes: what is known of every time that a mode was in force, before a restart too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock;
use crate::live::degradation::episode::{Episode, EpisodeCause, EpisodeImpact};
use crate::live::degradation::mode::{EPISODES, Modes};
use crate::store::{Millis, Store};
use crate::telemetry::events::rfc3339;

/// How often what an episode did so far is written.
const AGAIN: Duration = Duration::from_secs(5);
/// Answers that were under way when it ended come within this, mostly.
const SETTLED: Duration = Duration::from_secs(120);

/// An episode as it is shown and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeRecord {
    pub mode: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// RFC 3339.
    pub began: String,
    /// Absent while it lasts, and where the process ended before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// So far, while it lasts.
    pub seconds: f64,
    /// `condition`, `override`, `removed` or `restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    pub cause: EpisodeCause,
    pub impact: EpisodeImpact,
}

/// All episodes that are known.
#[derive(Debug)]
pub struct EpisodeHistory {
    store: Option<Store>,
    /// Of earlier processes.
    before: Mutex<Vec<EpisodeRecord>>,
    begun: Notify,
}

/// One of this process, and what of it is written.
struct UnsettledEpisode {
    episode: Arc<Episode>,
    written: Option<EpisodeRecord>,
}

impl EpisodeRecord {
    pub fn of(episode: &Episode) -> EpisodeRecord {
        let end = episode.ended();
        let seconds = end.map_or_else(|| clock::since(episode.since), |end| end.took);
        EpisodeRecord {
            mode: episode.mode.clone(),
            shadow: episode.shadow,
            began: rfc3339(episode.began),
            ended: end.map(|end| rfc3339(end.at)),
            seconds: (seconds.as_secs_f64() * 1e3).round() / 1e3,
            ended_by: end.map(|end| end.by.to_owned()),
            cause: episode.cause.clone(),
            impact: episode.impact(),
        }
    }
}

impl EpisodeHistory {
    /// `None`: what is not in memory is forgotten.
    pub fn new(store: Option<Store>) -> EpisodeHistory {
        EpisodeHistory { store, before: Mutex::default(), begun: Notify::new() }
    }

    /// Every one, the newest first.
    pub fn all(&self, modes: &Modes) -> Vec<EpisodeRecord> {
        let (now, _) = modes.episodes_since(0);
        let before = self.before.lock();
        let now = now.iter().rev().map(|episode| EpisodeRecord::of(episode));
        now.chain(before.iter().rev().cloned()).take(EPISODES).collect()
    }

    /// One began, or ended.
    pub(super) fn news(&self) {
        self.begun.notify_one();
    }

    /// Reads back what was kept, then writes down what comes.
    pub(super) async fn run(&self, modes: &Modes) {
        let Some(store) = &self.store else { return };
        match store.episodes().await {
            Ok(episodes) => {
                let read = episodes.iter().filter_map(|text| serde_json::from_str(text).ok());
                let read = read.map(EpisodeRecord::of_before).collect();
                *self.before.lock() = read;
            }
            Err(error) => tracing::warn!(%error, "past episodes cannot be read"),
        }
        let (mut seen, mut kept) = (0, VecDeque::new());
        loop {
            let (new, count) = modes.episodes_since(seen);
            seen = count;
            kept.extend(new.into_iter().map(|episode| UnsettledEpisode { episode, written: None }));
            for one in &mut kept {
                one.write(store).await;
            }
            kept.retain(|one| !one.is_settled());
            match kept.is_empty() {
                true => self.begun.notified().await,
                false => {
                    let _ = tokio::time::timeout(AGAIN, self.begun.notified()).await;
                }
            }
        }
    }
}

impl EpisodeRecord {
    /// One that a process began which is gone.
    fn of_before(self) -> EpisodeRecord {
        match self.ended_by {
            Some(_) => self,
            None => EpisodeRecord { ended_by: Some("restart".to_owned()), ..self },
        }
    }
}

impl UnsettledEpisode {
    async fn write(&mut self, store: &Store) {
        let record = EpisodeRecord::of(&self.episode);
        if self.written.as_ref() == Some(&record) {
            return;
        }
        let Ok(text) = serde_json::to_string(&record) else { return };
        let began = Millis::of(self.episode.began);
        match store.save_episode(began, record.mode.clone(), text).await {
            Ok(()) => self.written = Some(record),
            Err(error) => tracing::warn!(%error, "an episode cannot be written: tried again"),
        }
    }

    /// It is over, and what it did is written.
    fn is_settled(&self) -> bool {
        let over =
            |at: SystemTime| clock::wall().duration_since(at).is_ok_and(|passed| passed >= SETTLED);
        let written = self.written.as_ref() == Some(&EpisodeRecord::of(&self.episode));
        self.episode.ended().is_some_and(|end| written && over(end.at))
    }
}
