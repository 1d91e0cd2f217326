//! The state of the fleet and its steps: hosts, Redis, and the messages between them.
//!
//! A host sends its messages at once if there is room in flight; messages are delayed, lost,
//! duplicated or reordered. The stream holds the latest announcements: any host may read any
//! of them at any time, or never.

use std::hash::{DefaultHasher, Hash, Hasher};

use outrigger::resilience::breaker::StateKind;
use outrigger::resilience::breaker::replica::{FleetLease, ProbeVerdict};
use outrigger::resilience::breaker::shared_state::SharedState;
use outrigger::resilience::outcome::Outcome;

use super::host::{Came, Host};
use super::redis::{Redis, Run};
use super::rules::{Broken, FaultBudget, Mutant, Name, Rules, Truth};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub tick: u32,
    /// The provider is healthy.
    pub well: bool,
    pub redis: Redis,
    pub hosts: Vec<Host>,
    pub wire: Vec<Message>,
    pub faults: FaultBudget,
    pub truth: Truth,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The host at either end.
    pub name: Name,
    /// The tick of the request from which a lease is counted.
    sent: u32,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Content {
    Vote {
        seen: u64,
    },
    Lease {
        seen: u64,
        number: u64,
    },
    Renew(FleetLease),
    Result(FleetLease, ProbeVerdict),
    Assert(SharedState),
    /// `left`: the remaining open time at the reply.
    Reply {
        to: To,
        shared_state: SharedState,
        left: u32,
    },
    /// No reply.
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum To {
    Lease(Option<FleetLease>),
    Renew { lease: FleetLease, lives: bool, awaited: bool },
    Read,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Request {
        host: usize,
    },
    ProbeEnds {
        host: usize,
        probe: usize,
    },
    ClientGoes {
        host: usize,
        probe: usize,
    },
    Arrives {
        message: usize,
    },
    ArrivesTwice {
        message: usize,
    },
    /// Redis replies, and loses the write.
    ArrivesUnsaved {
        message: usize,
    },
    Lost {
        message: usize,
    },
    Hears {
        host: usize,
        entry: usize,
    },
    Reads {
        host: usize,
    },
    Ticks,
    ProviderTurns,
    Crashes {
        host: usize,
    },
    Detaches {
        host: usize,
    },
    RedisForgets,
}

// === impl World ===

impl World {
    /// A new fleet: attached, and Redis is empty.
    pub fn new(rules: &Rules) -> Self {
        let host = |_| {
            let mut host = Host::new(rules, 0);
            host.member.attach(true);
            host
        };
        World {
            tick: 0,
            well: false,
            redis: Redis::empty(),
            hosts: (0..rules.hosts).map(host).collect(),
            wire: Vec::new(),
            faults: rules.faults,
            truth: Truth::default(),
        }
    }

    /// The state after a step; `None` if it cannot happen, or changes nothing.
    pub fn after(&self, rules: &Rules, step: Step) -> Option<World> {
        let mut next = self.clone();
        next.take(rules, step)?;
        for host in next.hosts.iter_mut().zip(&self.hosts).filter(|(h, old)| h.life == old.life) {
            let back = host.1.member.known().supersedes(host.0.member.known());
            next.truth.check(!back, Broken::I1);
        }
        next.say(rules, step);
        next.forget_news(rules);
        next.wire.sort_by_cached_key(hash_of);
        (next != *self).then_some(next)
    }

    pub fn steps(&self, rules: &Rules, steps: &mut Vec<Step>) {
        for (host, state) in self.hosts.iter().enumerate() {
            // Hosts are alike: the first to trip is the first of them.
            if host == 0 || self.truth.has_begun() {
                steps.push(Step::Request { host });
            }
            for probe in 0..state.probes.len() {
                steps.push(Step::ProbeEnds { host, probe });
                steps.push(Step::ClientGoes { host, probe });
            }
            for (entry, shared) in self.truth.entries.iter().enumerate() {
                let news = shared.supersedes(state.member.known());
                if news || rules.mutant == Some(Mutant::AdoptsOlder) {
                    steps.push(Step::Hears { host, entry });
                }
            }
            steps.push(Step::Reads { host });
            steps.push(Step::Crashes { host });
            steps.push(Step::Detaches { host });
        }
        for (message, sent) in self.wire.iter().enumerate() {
            steps.push(Step::Arrives { message });
            steps.push(Step::Lost { message });
            if sent.is_for_redis() {
                steps.push(Step::ArrivesTwice { message });
                steps.push(Step::ArrivesUnsaved { message });
            }
        }
        steps.extend([Step::Ticks, Step::ProviderTurns, Step::RedisForgets]);
    }

    fn take(&mut self, rules: &Rules, step: Step) -> Option<()> {
        match step {
            Step::Request { host } => self.request(rules, host),
            Step::ProbeEnds { host, probe } => {
                let outcome = if self.well { Outcome::Success } else { Outcome::Failure };
                self.hosts[host].ends(probe, outcome);
            }
            Step::Arrives { message } => {
                let message = self.wire.remove(message);
                self.arrives(rules, message);
            }
            Step::Hears { host, entry } => self.hears(rules, host, entry),
            Step::Reads { host } => self.reads(rules, host)?,
            Step::Ticks => self.ticks(rules)?,
            _ => self.befalls(rules, step)?,
        }
        Some(())
    }

    /// Counts an event that may happen a limited number of times.
    fn befalls(&mut self, rules: &Rules, step: Step) -> Option<()> {
        match step {
            Step::ClientGoes { host, probe } => {
                spend(&mut self.faults.cancels)?;
                self.hosts[host].ends(probe, Outcome::Ignored);
            }
            Step::ArrivesTwice { message } => {
                spend(&mut self.faults.doubles)?;
                let again = self.wire[message].clone();
                self.arrives(rules, again);
            }
            Step::ArrivesUnsaved { message } => {
                spend(&mut self.faults.wipes)?;
                self.arrives_unsaved(rules, message)?;
            }
            Step::Lost { message } => self.lost(message)?,
            Step::ProviderTurns => {
                spend(&mut self.faults.turns)?;
                self.well = !self.well;
            }
            Step::Crashes { host } => {
                spend(&mut self.faults.crashes)?;
                self.crashes(rules, host);
            }
            Step::Detaches { host } => {
                spend(&mut self.faults.detaches)?;
                self.hosts[host].member.is_attached().then_some(())?;
                self.hosts[host].member.attach(false);
            }
            Step::RedisForgets => {
                spend(&mut self.faults.wipes)?;
                self.redis = Redis::empty();
                self.truth.wiped = true;
            }
            _ => {}
        }
        Some(())
    }

    pub fn request(&mut self, rules: &Rules, host: usize) {
        let (name, early) = (self.name(host), self.hosts[host].is_early(self.tick));
        let seen = self.hosts[host].member.known().epoch;
        let came = self.hosts[host].request(rules, self.tick, self.well);
        self.truth.check(!early || came != Came::ToAnAttempt, Broken::I5);
        if came.to_an_open() && rules.mutant == Some(Mutant::RequestsEarly) {
            self.send(name, Content::Lease { seen, number: 99 });
        }
    }

    fn lost(&mut self, message: usize) -> Option<()> {
        let message = self.wire.remove(message);
        (message.content != Content::Silence).then_some(())?;
        spend(&mut self.faults.losses)?;
        if message.awaits_a_reply() {
            self.wire.push(Message { content: Content::Silence, sent: 0, ..message });
        }
        Some(())
    }

    pub fn hears(&mut self, rules: &Rules, host: usize, entry: usize) {
        let shared = self.truth.entries[entry].clone();
        let until = rules.at(self.tick.max(shared.until as u32));
        self.hosts[host].learn(rules, &shared, until);
    }

    /// A host that is detached, or knows more than Redis. (One that knows less reads the
    /// stream.)
    pub fn reads(&mut self, rules: &Rules, host: usize) -> Option<()> {
        let (name, member) = (self.name(host), &self.hosts[host].member);
        let is_newer = member.known().supersedes(&self.redis.shared_state);
        let under_way = self.wire.iter().any(|m| m.name == name && m.is_a_read());
        if under_way || (!is_newer && member.is_attached()) || self.is_full(rules) {
            return None;
        }
        let (shared_state, left) = (self.redis.shared_state.clone(), self.redis.left(self.tick));
        self.send(name, Content::Reply { to: To::Read, shared_state, left });
        Some(())
    }

    /// A probe ends before its lease.
    fn ticks(&mut self, rules: &Rules) -> Option<()> {
        let may_last =
            |host: &Host| host.probes.iter().all(|probe| self.tick + 1 < probe.began + rules.ttl);
        let begun = self.truth.has_begun();
        if self.tick >= rules.ticks || !begun || !self.hosts.iter().all(may_last) {
            return None;
        }
        self.tick += 1;
        self.redis.sweep(self.tick);
        Some(())
    }

    fn crashes(&mut self, rules: &Rules, host: usize) {
        let name = self.name(host);
        self.wire.retain(|message| message.name != name || message.is_for_redis());
        self.hosts[host] = Host::new(rules, name.life + 1);
    }

    fn arrives_unsaved(&mut self, rules: &Rules, message: usize) -> Option<()> {
        let (message, before) = (self.wire.remove(message), self.redis.clone());
        self.arrives(rules, message);
        self.truth.wiped = true;
        let wrote = self.redis != before;
        self.redis = before;
        wrote.then_some(())
    }

    pub fn arrives(&mut self, rules: &Rules, message: Message) {
        if message.is_for_redis() {
            self.handle_request(rules, message);
        } else {
            self.handle_reply(rules, message);
        }
    }

    fn handle_request(&mut self, rules: &Rules, message: Message) {
        let Message { name, sent, content } = message;
        let (redis, truth) = (&mut self.redis, &mut self.truth);
        let mut run = Run { rules, truth, now: self.tick, name };
        let mut to = None;
        match content {
            Content::Vote { seen } => redis.vote(&mut run, seen),
            Content::Lease { seen, number } => {
                to = Some(To::Lease(redis.lease(&mut run, seen, number)));
            }
            Content::Renew(lease) => {
                let (lives, awaited) = redis.renew(&run, lease);
                to = Some(To::Renew { lease, lives, awaited });
            }
            Content::Result(lease, verdict) => redis.result(&mut run, lease, verdict),
            Content::Assert(known) => redis.assert(&mut run, &known),
            Content::Reply { .. } | Content::Silence => {}
        }
        let (shared_state, left) = (self.redis.shared_state.clone(), self.redis.left(self.tick));
        // In other replies only the state matters, and that is in the stream too.
        let sender = self.hosts.get(usize::from(name.host)).filter(|host| host.life == name.life);
        if let (Some(_), Some(to)) = (sender, to) {
            self.wire.push(Message {
                name,
                sent,
                content: Content::Reply { to, shared_state, left },
            });
        }
    }

    fn handle_reply(&mut self, rules: &Rules, message: Message) {
        let Message { name, sent, content } = message;
        let (now, sent) = (rules.at(self.tick), rules.at(sent));
        let host = &mut self.hosts[usize::from(name.host)];
        let Content::Reply { to, shared_state, left } = content else {
            host.member.request_failed();
            return;
        };
        host.learn(rules, &shared_state, rules.at(self.tick + left));
        match to {
            To::Lease(Some(lease)) => host.member.lease_granted(lease, sent),
            To::Lease(None) => host.member.lease_denied(now),
            To::Renew { lease, lives, awaited } => {
                host.member.lease_renewed(lease, lives, awaited, sent);
            }
            To::Read => {
                let known = host.member.known().clone();
                host.member.attach(true);
                if known.supersedes(&shared_state) {
                    self.send(name, Content::Assert(known));
                }
            }
        }
    }

    /// Removes stream entries that every host has read.
    fn forget_news(&mut self, rules: &Rules) {
        let news = |shared: &SharedState, host: &Host| shared.supersedes(host.member.known());
        if rules.mutant != Some(Mutant::AdoptsOlder) {
            self.truth.entries.retain(|shared| self.hosts.iter().any(|host| news(shared, host)));
        }
    }

    /// The host of a step may have messages to send; a tick concerns all.
    fn say(&mut self, rules: &Rules, step: Step) {
        for host in 0..self.hosts.len() {
            let concerned = match step {
                Step::Request { host } | Step::ProbeEnds { host, .. } => Some(host),
                Step::ClientGoes { host, .. } | Step::Hears { host, .. } => Some(host),
                _ => None,
            };
            if concerned.is_none_or(|concerned| concerned == host) && !self.is_full(rules) {
                self.says(rules, host);
            }
        }
    }

    pub fn says(&mut self, rules: &Rules, at: usize) {
        let (name, host) = (self.name(at), &mut self.hosts[at]);
        let messages = host.says(rules.at(self.tick));
        let seen = host.member.known().epoch;
        if messages.vote {
            self.truth.votes(name, seen);
            self.send(name, Content::Vote { seen });
        }
        messages.renew.into_iter().for_each(|lease| self.send(name, Content::Renew(lease)));
        for (lease, verdict) in messages.verdicts {
            self.send(name, Content::Result(lease, verdict));
        }
        if messages.lease {
            self.hosts[at].lease_requests += 1;
            let number = self.hosts[at].lease_requests;
            self.send(name, Content::Lease { seen, number });
        }
    }

    fn send(&mut self, name: Name, content: Content) {
        let counted = matches!(content, Content::Lease { .. } | Content::Renew(_));
        let sent = if counted { self.tick } else { 0 };
        self.wire.push(Message { name, sent, content });
    }

    fn is_full(&self, rules: &Rules) -> bool {
        self.wire.len() >= rules.in_flight
    }

    fn name(&self, host: usize) -> Name {
        Name { host: host as u8, life: self.hosts[host].life }
    }

    /// A stream entry that this host has not read.
    pub fn news(&self, host: usize) -> Option<usize> {
        let known = self.hosts[host].member.known();
        self.truth.entries.iter().position(|shared| shared.supersedes(known))
    }

    /// The most outstanding probes of one epoch.
    pub fn most_out(&self) -> usize {
        let out = || self.hosts.iter().flat_map(|host| &host.probes);
        let beside = |epoch| out().filter(|probe| probe.lease.epoch == epoch).count();
        out().map(|probe| beside(probe.lease.epoch)).max().unwrap_or(0)
    }

    /// It was open, and is closed.
    pub fn has_closed(&self) -> bool {
        self.redis.shared_state.epoch > 0 && self.redis.shared_state.state == StateKind::Closed
    }
}

// === impl Message ===

impl Message {
    pub fn is_for_redis(&self) -> bool {
        !matches!(self.content, Content::Reply { .. } | Content::Silence)
    }

    fn is_a_read(&self) -> bool {
        matches!(self.content, Content::Reply { to: To::Read, .. })
    }

    fn awaits_a_reply(&self) -> bool {
        match self.content {
            Content::Lease { .. } | Content::Renew(_) => true,
            Content::Reply { to, .. } => matches!(to, To::Lease(_) | To::Renew { .. }),
            _ => false,
        }
    }
}

fn spend(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}

/// The same in every run.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
