//! The level and spread that a measure has at a time of the week, learned from its past.
//!
//! Readings are kept as one summary for each 10 minutes of the last day and one for each hour of
//! the week: 168 and 144 of them, whatever the traffic. Medians of summaries leave out bursts.
//!
//! - The *profile* of an hour of the week is the median of that hour over the last seven days,
//!   or the same hour a week ago if that was worse, so that neither a daily cycle nor a weekend
//!   alarms. Between the middles of two hours it is interpolated.
//! - The *offset* is the median, over the last day, of the difference between a summary and the
//!   profile of its hour. Without a profile (on the first day) it is the median of the day. The
//!   differences are from the present profile, which may contain the same hours: with the one of
//!   their time, a lasting improvement would count twice, in the offset and in the profile.
//! - The spread is the median absolute deviation (MAD) from the expected level, over the last day
//!   or at the same hour of the week, the larger.
//!
//! A summary is learned only by an explicit call, so the caller freezes a profile by not calling.

use std::collections::VecDeque;

use super::measure::ROLL_UP_SECONDS;
use crate::resilience::medians::median;

/// Roll-ups of a block: 10 minutes.
pub(crate) const BLOCK: u64 = 600 / ROLL_UP_SECONDS;
/// Blocks of a day.
pub(crate) const DAY: usize = 144;
const BLOCKS_PER_HOUR: u64 = 6;
const HOURS: u64 = 24;
const DAYS: u64 = 7;
/// An hour with fewer learned blocks has no summary.
const LEAST_BLOCKS: usize = 3;

/// The summary of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSummary {
    /// Number of the block: unix time divided by 600 s.
    pub number: u64,
    pub level: f32,
    /// Median absolute deviation from the level that was expected.
    pub spread: f32,
}

/// The summary of an hour of the week.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HourSummary {
    pub level: f32,
    pub spread: f32,
}

/// The values that a reading is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    pub level: f64,
    pub spread: f64,
    /// The same hour of the week has not been seen.
    pub is_young: bool,
}

/// The learned past of a measure. Plain data, so that a store can keep it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The last day, the oldest first; at most 144.
    pub blocks: VecDeque<BlockSummary>,
    /// By hour of the week in UTC; empty, or 168.
    pub hours: Vec<Option<HourSummary>>,
}

impl Profile {
    /// The expectation in a block; none before the first block was learned.
    pub fn expectation(&self, block: u64) -> Option<Expectation> {
        let profile = self.profile(block);
        let difference = |learned: &BlockSummary| match profile {
            Some(_) => self.profile(learned.number).map(|usual| learned.level - usual),
            None => Some(learned.level),
        };
        let offset = median(&mut self.blocks.iter().filter_map(difference).collect::<Vec<_>>());
        // A profile without a comparable block is better than nothing.
        let level = offset.map_or(profile, |offset| Some(profile.unwrap_or(0.0) + offset))?;
        let hour = block / BLOCKS_PER_HOUR;
        let day_spread = median(&mut self.blocks.iter().map(|b| b.spread).collect::<Vec<_>>());
        let hour_spread = median(&mut self.days(hour).map(|h| h.spread).collect::<Vec<_>>());
        let spread = f64::from(day_spread.unwrap_or(0.0).max(hour_spread.unwrap_or(0.0)));
        let is_young = self.hour(hour).is_none();
        Some(Expectation { level: level.into(), spread, is_young })
    }

    /// Learns a block. Blocks are learned in order.
    pub fn learn(&mut self, learned: BlockSummary) {
        let hour_of = |block: &BlockSummary| block.number / BLOCKS_PER_HOUR;
        // An hour counts once it is over, so that no reading is compared with its own hour.
        if let Some(hour) = self.blocks.back().map(hour_of).filter(|hour| *hour < hour_of(&learned))
        {
            let blocks: Vec<_> =
                self.blocks.iter().rev().take_while(|b| hour_of(b) == hour).collect();
            let level = median(&mut blocks.iter().map(|b| b.level).collect::<Vec<_>>());
            let spread = median(&mut blocks.iter().map(|b| b.spread).collect::<Vec<_>>());
            if let (Some(level), Some(spread), LEAST_BLOCKS..) = (level, spread, blocks.len()) {
                self.hours.resize((HOURS * DAYS) as usize, None);
                self.hours[(hour % (HOURS * DAYS)) as usize] = Some(HourSummary { level, spread });
            }
        }
        if self.blocks.len() == DAY {
            self.blocks.pop_front();
        }
        self.blocks.push_back(learned);
    }

    /// Takes a level as normal from now on: every hour moves by the difference.
    pub fn rebase(&mut self, level: f64, block: u64) {
        let Some(expected) = self.expectation(block) else { return };
        let difference = (level - expected.level) as f32;
        self.blocks.iter_mut().for_each(|learned| learned.level += difference);
        self.hours.iter_mut().flatten().for_each(|hour| hour.level += difference);
    }

    /// The usual level at the middle of a block, by the hours before and after it.
    fn profile(&self, block: u64) -> Option<f32> {
        let (hour, sixth) = (block / BLOCKS_PER_HOUR, block % BLOCKS_PER_HOUR);
        let own = self.usual(hour)?;
        // From the middle of the hour, in hours.
        let distance = (sixth as f32 + 0.5) / BLOCKS_PER_HOUR as f32 - 0.5;
        let other = if distance < 0.0 { hour.saturating_sub(1) } else { hour + 1 };
        let other = self.usual(other).unwrap_or(own);
        Some(own + (other - own) * distance.abs())
    }

    /// The median of an hour over the days, or the same hour a week ago if that was worse.
    fn usual(&self, hour: u64) -> Option<f32> {
        let mut days: [f32; DAYS as usize] = [0.0; DAYS as usize];
        let mut count = 0;
        for day in self.days(hour) {
            days[count] = day.level;
            count += 1;
        }
        let usual = median(&mut days[..count])?;
        Some(self.hour(hour).map_or(usual, |own| own.level.max(usual)))
    }

    fn hour(&self, hour: u64) -> Option<&HourSummary> {
        self.hours.get((hour % (HOURS * DAYS)) as usize)?.as_ref()
    }

    /// The same hour of each day that is known.
    fn days(&self, hour: u64) -> impl Iterator<Item = &HourSummary> {
        (0..DAYS).filter_map(move |day| self.hour(hour % HOURS + day * HOURS))
    }
}
