//! The episodes of degradation modes, those of earlier processes included.

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

/// How often the impact of a running episode is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// After its end an episode is written for this long: responses in progress still change its impact.
const SETTLE_TIME: Duration = Duration::from_secs(120);

/// An episode as the API shows it and the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EpisodeRecord {
    pub mode: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// RFC 3339.
    pub began: String,
    /// Absent while the episode lasts, and if the process ended before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Duration; so far, while the episode lasts.
    pub seconds: f64,
    /// `condition`, `override`, `removed` or `restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    pub cause: EpisodeCause,
    pub impact: EpisodeImpact,
}

/// All known episodes.
#[derive(Debug)]
pub struct EpisodeHistory {
    store: Option<Store>,
    /// Episodes of earlier processes.
    earlier: Mutex<Vec<EpisodeRecord>>,
    changed: Notify,
}

/// An episode of this process that may still change, and its record in the store.
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
    /// Without a store, the history covers this process only.
    pub fn new(store: Option<Store>) -> EpisodeHistory {
        EpisodeHistory { store, earlier: Mutex::default(), changed: Notify::new() }
    }

    /// All episodes, the newest first.
    pub fn all(&self, modes: &Modes) -> Vec<EpisodeRecord> {
        let (now, _) = modes.episodes_since(0);
        let before = self.earlier.lock();
        let now = now.iter().rev().map(|episode| EpisodeRecord::of(episode));
        now.chain(before.iter().rev().cloned()).take(EPISODES).collect()
    }

    /// An episode began or ended.
    pub(super) fn notify_changed(&self) {
        self.changed.notify_one();
    }

    /// Reads the stored episodes, then writes new ones.
    pub(super) async fn run(&self, modes: &Modes) {
        let Some(store) = &self.store else { return };
        match store.episodes().await {
            Ok(episodes) => {
                let read = episodes.iter().filter_map(|text| serde_json::from_str(text).ok());
                let read = read.map(EpisodeRecord::of_earlier_process).collect();
                *self.earlier.lock() = read;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the stored episodes of degradation modes")
            }
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
                true => self.changed.notified().await,
                false => {
                    let _ = tokio::time::timeout(WRITE_INTERVAL, self.changed.notified()).await;
                }
            }
        }
    }
}

impl EpisodeRecord {
    /// A record of an earlier process. It cannot still last.
    fn of_earlier_process(self) -> EpisodeRecord {
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
            Err(error) => {
                tracing::warn!(%error, "cannot write an episode of a degradation mode; retrying")
            }
        }
    }

    /// Whether it ended some time ago and its last record is written.
    fn is_settled(&self) -> bool {
        let over = |at: SystemTime| {
            clock::wall().duration_since(at).is_ok_and(|passed| passed >= SETTLE_TIME)
        };
        let written = self.written.as_ref() == Some(&EpisodeRecord::of(&self.episode));
        self.episode.ended().is_some_and(|end| written && over(end.at))
    }
}
