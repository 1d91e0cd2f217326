//! Test support: a provider that enforces its quotas strictly, and a client driven past them,
//! in virtual time; measures how well a pacing rule performs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::reported_quota::{QuotaReport, Refill};

/// An amount per minute, and a burst.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub a_minute: f64,
    pub burst: f64,
    pub refill: Refill,
}

/// A provider: its quotas, and the way that it reports them.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    pub requests: Quota,
    pub tokens: Quota,
    /// Headers report the remainder when the response begins, not when the request
    /// arrived.
    pub late_headers: bool,
    /// Headers report neither limit nor reset.
    pub bare: bool,
    /// Resets are rounded up to this.
    pub reset_step: Duration,
    pub retry_after: bool,
    pub took: (Duration, Duration),
    /// Attempts of another client of the same quota, as a share of it.
    pub others: f64,
}

/// The traffic.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub in_flight: usize,
    /// As a multiple of the scarcest quota.
    pub times: f64,
    /// Bounds of the tokens of an attempt.
    pub tokens: (f64, f64),
    /// Largest relative error of our estimate.
    pub misjudged: f64,
    pub lasts: Duration,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct ProviderReply {
    pub throttled: bool,
    pub retry_after: Option<Duration>,
    pub requests: QuotaReport,
    pub tokens: QuotaReport,
}

/// The pacing rule under test.
pub trait Pacer {
    type Ticket;
    /// Admits an attempt of about this many tokens.
    fn admit(&mut self, tokens: f64, now: Instant) -> Result<Self::Ticket, Duration>;
    fn reply_received(
        &mut self,
        ticket: Self::Ticket,
        reply: &ProviderReply,
        now: Instant,
        draw: f64,
    );
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub sent: u32,
    pub throttled: u32,
    /// Used share of the scarcest quota: of the burst and the refill.
    pub used: f64,
}

impl Figures {
    pub fn throttled_share(&self) -> f64 {
        f64::from(self.throttled) / f64::from(self.sent.max(1))
    }
}

impl Quota {
    pub fn bucket(a_minute: f64, burst: f64) -> Self {
        Self { a_minute, burst, refill: Refill::Bucket }
    }

    pub fn window(a_minute: f64) -> Self {
        Self { a_minute, burst: a_minute, refill: Refill::Window }
    }
}

impl Provider {
    pub fn of(requests: Quota, tokens: Quota) -> Self {
        Self {
            requests,
            tokens,
            late_headers: false,
            bare: false,
            reset_step: Duration::from_millis(1),
            retry_after: true,
            took: (Duration::from_millis(50), Duration::from_millis(500)),
            others: 0.0,
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self {
            in_flight: 32,
            times: 2.0,
            tokens: (20.0, 60.0),
            misjudged: 0.0,
            lasts: Duration::from_secs(180),
            seed: 1,
        }
    }
}

/// The remainder of one quota, as the provider knows it.
struct Stock {
    quota: Quota,
    level: f64,
    at: Instant,
    began: Instant,
    used: f64,
}

impl Stock {
    fn new(quota: Quota, now: Instant) -> Self {
        Self { quota, level: quota.burst, at: now, began: now, used: 0.0 }
    }

    fn a_second(&self) -> f64 {
        self.quota.a_minute / 60.0
    }

    fn minute(&self, at: Instant) -> u64 {
        (at - self.began).as_secs() / 60
    }

    fn refill(&mut self, now: Instant) {
        match self.quota.refill {
            Refill::Bucket => {
                let came = (now - self.at).as_secs_f64() * self.a_second();
                self.level = (self.level + came).min(self.quota.burst);
            }
            Refill::Window if self.minute(now) > self.minute(self.at) => {
                self.level = self.quota.burst;
            }
            Refill::Window => {}
        }
        self.at = now;
    }

    fn take(&mut self, amount: f64) {
        self.level -= amount;
        self.used += amount;
    }

    /// Seconds until this amount is available.
    fn wait(&self, amount: f64, now: Instant) -> f64 {
        match self.quota.refill {
            Refill::Bucket => (amount - self.level).max(0.0) / self.a_second(),
            Refill::Window if self.level >= amount => 0.0,
            Refill::Window => 60.0 - (now - self.began).as_secs_f64() % 60.0,
        }
    }

    fn report(&self, step: Duration, now: Instant) -> QuotaReport {
        let whole = self.wait(self.quota.burst, now);
        let step = step.as_secs_f64();
        QuotaReport {
            limit: Some(self.quota.burst),
            remaining: self.level.max(0.0).floor(),
            reset: Some(Duration::from_secs_f64((whole / step).ceil() * step)),
            refill: self.quota.refill,
        }
    }

    /// Used share of the total available.
    fn share_used(&self, lasts: Duration) -> f64 {
        let came = self.quota.a_minute * lasts.as_secs_f64() / 60.0;
        match self.quota.refill {
            Refill::Bucket => self.used / (self.quota.burst + came),
            Refill::Window => self.used / came,
        }
    }
}

/// The same draws in every run (SplitMix64).
#[derive(Debug)]
pub struct RandomDraws(pub u64);

impl RandomDraws {
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, (from, to): (f64, f64)) -> f64 {
        from + (to - from) * self.draw()
    }

    fn length(&mut self, (from, to): (Duration, Duration)) -> Duration {
        from + (to - from).mul_f64(self.draw())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wanted,
    Wake,
    Counted(u64),
    ReplyReceived(u64),
    Others,
}

struct Flight<T> {
    tokens: f64,
    ticket: Option<T>,
    reply: Option<ProviderReply>,
    reply_at: Instant,
}

struct Run<'a, P: Pacer> {
    provider: Provider,
    load: Load,
    pacer: &'a mut P,
    stocks: [Stock; 2],
    draws: RandomDraws,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    number: u64,
    waiting: VecDeque<f64>,
    flights: BTreeMap<u64, Flight<P::Ticket>>,
    wakes_at: Option<Instant>,
    figures: Figures,
}

/// Drives the pacer against the provider.
pub fn run<P: Pacer>(provider: Provider, load: Load, pacer: &mut P) -> Figures {
    let began = Instant::now();
    let stocks = [Stock::new(provider.requests, began), Stock::new(provider.tokens, began)];
    let mut run = Run {
        provider,
        load,
        pacer,
        stocks,
        draws: RandomDraws(load.seed),
        events: BinaryHeap::new(),
        number: 0,
        waiting: VecDeque::new(),
        flights: BTreeMap::new(),
        wakes_at: None,
        figures: Figures::default(),
    };
    run.at(began, Event::Wanted);
    if provider.others > 0.0 {
        run.at(began, Event::Others);
    }
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        if now > began + load.lasts {
            break;
        }
        run.happens(event, now);
    }
    let [requests, tokens] = run.stocks.map(|stock| stock.share_used(load.lasts));
    Figures { used: requests.max(tokens), ..run.figures }
}

impl<P: Pacer> Run<'_, P> {
    fn at(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn mean_tokens(&self) -> f64 {
        f64::midpoint(self.load.tokens.0, self.load.tokens.1)
    }

    /// Attempts per second that the quotas allow.
    fn allowed(&self) -> f64 {
        let [requests, tokens] = &self.stocks;
        requests.a_second().min(tokens.a_second() / self.mean_tokens())
    }

    fn happens(&mut self, event: Event, now: Instant) {
        match event {
            Event::Wanted => {
                let tokens = self.draws.between(self.load.tokens).round();
                self.waiting.push_back(tokens);
                let gap = self.draws.between((0.0, 2.0)) / (self.allowed() * self.load.times);
                self.at(now + Duration::from_secs_f64(gap), Event::Wanted);
            }
            Event::Wake => self.wakes_at = self.wakes_at.filter(|at| *at > now),
            Event::Counted(id) => self.counted(id, now),
            Event::ReplyReceived(id) => self.reply_received(id, now),
            Event::Others => {
                let tokens = self.mean_tokens();
                self.charge(tokens, now);
                let gap = self.draws.between((0.0, 2.0)) / (self.allowed() * self.provider.others);
                self.at(now + Duration::from_secs_f64(gap), Event::Others);
            }
        }
        self.pump(now);
    }

    /// Sends the attempts that are admitted; else wakes when one may be.
    fn pump(&mut self, now: Instant) {
        while self.flights.len() < self.load.in_flight {
            let Some(&tokens) = self.waiting.front() else { return };
            let wrong = self.load.misjudged;
            let estimate = tokens * self.draws.between((1.0 - wrong, 1.0 + wrong));
            match self.pacer.admit(estimate, now) {
                Ok(ticket) => self.send(ticket, tokens, now),
                Err(wait) => {
                    let at = now + wait;
                    if self.wakes_at.is_none_or(|wakes_at| at < wakes_at) {
                        self.wakes_at = Some(at);
                        self.at(at, Event::Wake);
                    }
                    return;
                }
            }
        }
    }

    fn send(&mut self, ticket: P::Ticket, tokens: f64, now: Instant) {
        self.waiting.pop_front();
        self.figures.sent += 1;
        let took = self.draws.length(self.provider.took);
        let there = now + took.mul_f64(0.1 * self.draws.draw());
        let id = self.number;
        let reply_at = now + took;
        let flight = Flight { tokens, ticket: Some(ticket), reply: None, reply_at };
        self.flights.insert(id, flight);
        self.at(there, Event::Counted(id));
    }

    /// Takes from both quotas, if there is enough; else returns the time until there is.
    fn charge(&mut self, tokens: f64, now: Instant) -> Option<f64> {
        let amounts = [1.0, tokens];
        self.stocks.iter_mut().for_each(|stock| stock.refill(now));
        let waits = self.stocks.iter().zip(amounts).map(|(stock, amount)| stock.wait(amount, now));
        let wait = waits.fold(0.0, f64::max);
        if wait > 0.0 {
            return Some(wait);
        }
        self.stocks.iter_mut().zip(amounts).for_each(|(stock, amount)| stock.take(amount));
        None
    }

    fn reply_for(&self, wait: Option<f64>, now: Instant) -> ProviderReply {
        let bare = |report: QuotaReport| QuotaReport { limit: None, reset: None, ..report };
        let report = |stock: &Stock| stock.report(self.provider.reset_step, now);
        let reports = self.stocks.each_ref().map(report);
        let [requests, tokens] = if self.provider.bare { reports.map(bare) } else { reports };
        let retry_after = wait.map(|wait| Duration::from_secs_f64(wait.ceil()));
        ProviderReply {
            throttled: wait.is_some(),
            retry_after: retry_after.filter(|_| self.provider.retry_after),
            requests,
            tokens,
        }
    }

    fn counted(&mut self, id: u64, now: Instant) {
        let wait = self.charge(self.flights[&id].tokens, now);
        let reply = self.reply_for(wait, now);
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.reply = Some(reply);
        // A rejection is quick.
        if reply.throttled {
            flight.reply_at = flight.reply_at.min(now + Duration::from_millis(25));
        }
        let at = flight.reply_at;
        self.at(at, Event::ReplyReceived(id));
    }

    fn reply_received(&mut self, id: u64, now: Instant) {
        let Some(mut flight) = self.flights.remove(&id) else { return };
        let (Some(ticket), Some(mut reply)) = (flight.ticket.take(), flight.reply) else {
            return;
        };
        if self.provider.late_headers {
            self.stocks.iter_mut().for_each(|stock| stock.refill(now));
            let reports = self.reply_for(None, now);
            reply = ProviderReply { requests: reports.requests, tokens: reports.tokens, ..reply };
        }
        if reply.throttled {
            self.figures.throttled += 1;
            self.waiting.push_front(flight.tokens);
        }
        let draw = self.draws.draw();
        self.pacer.reply_received(ticket, &reply, now, draw);
    }
}
