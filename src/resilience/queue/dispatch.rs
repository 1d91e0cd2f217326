//! Who has the turn at which gate, and what becomes of it: the other half of [`Lane`].

use std::time::Instant;

use super::gate::{ClassKey, Gate};
use super::wait_queue::{GroupKey, Ticket, WaitQueue, WaiterGroup};

impl WaitQueue {
    /// Those that have something to look at since this was asked last.
    pub fn take_woken(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.woken)
    }

    /// The gates at which it has the turn.
    pub fn offers(&self, ticket: Ticket) -> Vec<u32> {
        let turns = self.waiters.get(&ticket).map(|waiter| &waiter.turns);
        turns.into_iter().flatten().map(|(provider, _)| *provider).collect()
    }

    pub fn is_offered(&self, ticket: Ticket, provider: u32) -> bool {
        self.gates.get(&provider).and_then(Gate::whose) == Some(ticket)
    }

    /// Has it a turn, and not looked yet?
    pub fn has_new_offer(&self, ticket: Ticket) -> bool {
        let waiter = self.waiters.get(&ticket);
        waiter.is_some_and(|waiter| waiter.turns.iter().any(|(_, rests)| rests.is_none()))
    }

    /// There may be room at a provider.
    pub fn capacity_available(&mut self, provider: u32, now: Instant) {
        let Some(gate) = self.gates.get_mut(&provider) else { return };
        if gate.whose().is_some() {
            gate.again();
            return;
        }
        if let Some(first) = self.first(provider, now) {
            self.offer(provider, first);
            self.woken.push(first);
        }
    }

    /// What stands before a provider may have changed: every line may look, and who rests too.
    pub fn conditions_changed(&mut self, provider: u32, now: Instant) {
        let Some(gate) = self.gates.get(&provider) else { return };
        for line in gate.closed() {
            self.set_open(provider, line, true, now);
        }
        self.gates.get_mut(&provider).into_iter().for_each(Gate::reopen);
        let rests = self.gates.get(&provider).filter(|gate| gate.rests()).and_then(Gate::whose);
        match rests {
            Some(whose) => self.pass_on(provider, whose, now),
            None => self.capacity_available(provider, now),
        }
    }

    /// It has the turn, and the provider's own rate forbids it until then.
    pub fn defer(&mut self, ticket: Ticket, provider: u32, until: Instant, now: Instant) {
        if !self.is_offered(ticket, provider) {
            return;
        }
        if let Some(gate) = self.gates.get_mut(&provider) {
            gate.set_rests(true);
        }
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            let own = waiter.turns.iter_mut().filter(|(at, _)| *at == provider);
            own.for_each(|(_, rests)| *rests = Some(until));
        }
        if self.first(provider, now) != Some(ticket) {
            self.pass_on(provider, ticket, now);
        }
    }

    /// It has the turn, and what stands before the provider forbids it to all of its line until then;
    /// unless that changed while it looked: then somebody looks once more.
    pub fn block_group(&mut self, ticket: Ticket, provider: u32, until: Instant, now: Instant) {
        if !self.is_offered(ticket, provider) {
            return;
        }
        let reopened = self.gates.get(&provider).is_some_and(Gate::is_reopened);
        let waiter = self.waiters.get_mut(&ticket).filter(|_| !reopened);
        if let Some(waiter) = waiter {
            waiter.closed.push((provider, until));
            let line = waiter.line;
            self.set_open(provider, line, false, now);
        }
        self.withdraw_offer(provider, ticket);
        self.capacity_available(provider, now);
    }

    /// It has the turn, and found nothing free.
    pub fn decline(&mut self, ticket: Ticket, provider: u32, now: Instant) {
        if self.is_offered(ticket, provider) && self.withdraw_offer(provider, ticket) {
            self.capacity_available(provider, now);
        }
    }

    /// When it has to look again by itself.
    pub fn next_check(&self, ticket: Ticket) -> Option<Instant> {
        let waiter = self.waiters.get(&ticket)?;
        let rests = waiter.turns.iter().filter_map(|(_, until)| *until);
        rests.chain(waiter.closed.iter().map(|(_, until)| *until)).min()
    }

    /// Its time came: what rested looks again, what it closed is open.
    pub fn expire_timers(&mut self, ticket: Ticket, now: Instant) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        let line = waiter.line;
        let open: Vec<_> = waiter.closed.extract_if(.., |(_, until)| *until <= now).collect();
        let over = |(at, until): &(u32, Option<Instant>)| until.filter(|u| *u <= now).map(|_| *at);
        let rested: Vec<_> = waiter.turns.iter().filter_map(over).collect();
        for provider in rested {
            self.pass_on(provider, ticket, now);
        }
        for (provider, _) in open {
            self.set_open(provider, line, true, now);
            self.capacity_available(provider, now);
        }
    }
}

// === impl Lane: what is not asked from outside ===

impl WaitQueue {
    /// Whose turn it would be.
    pub(crate) fn first(&mut self, provider: u32, now: Instant) -> Option<Ticket> {
        let order: Vec<(ClassKey, u32)> = self.gates.get(&provider)?.order().collect();
        for ((queue, class), line) in order {
            if self.paused.contains(&queue) {
                continue;
            }
            let crowd = self.queues.get_mut(&queue);
            let newest = crowd.is_some_and(|crowd| crowd.newest_first(class, now));
            let standing = self.lines.get(&line);
            let first = standing.and_then(|line| line.classes.get(class)?.first(newest));
            if first.is_some() {
                return first;
            }
        }
        None
    }

    fn offer(&mut self, provider: u32, to: Ticket) {
        if let (Some(gate), Some(waiter)) =
            (self.gates.get_mut(&provider), self.waiters.get_mut(&to))
        {
            gate.give(to);
            waiter.turns.push((provider, None));
        }
    }

    /// Takes the turn away; was there room meanwhile?
    fn withdraw_offer(&mut self, provider: u32, from: Ticket) -> bool {
        if let Some(waiter) = self.waiters.get_mut(&from) {
            waiter.turns.retain(|(at, _)| *at != provider);
        }
        self.gates.get_mut(&provider).is_some_and(Gate::end)
    }

    /// The turn of one who rested is that of whoever is first now.
    fn pass_on(&mut self, provider: u32, from: Ticket, now: Instant) {
        self.withdraw_offer(provider, from);
        self.capacity_available(provider, now);
    }

    /// The line's number.
    pub(crate) fn group_id(&mut self, line: GroupKey) -> u32 {
        if let Some(id) = self.line_ids.get(&line) {
            return *id;
        }
        self.next_line = self.next_line.wrapping_add(1);
        self.line_ids.insert(line.clone(), self.next_line);
        self.lines.insert(self.next_line, WaiterGroup { line, classes: Vec::new() });
        self.next_line
    }

    /// Class, line and flow of a waiter.
    pub(crate) fn position(&self, ticket: Ticket) -> Option<(ClassKey, u32, u64)> {
        let waiter = self.waiters.get(&ticket)?;
        let queue = self.lines.get(&waiter.line)?.line.queue;
        Some(((queue, waiter.member.class), waiter.line, waiter.member.flow))
    }

    pub(crate) fn providers(&self, line: u32) -> Box<[u32]> {
        self.lines.get(&line).map(|line| line.line.providers.clone()).unwrap_or_default()
    }

    fn weight(&self, share: ClassKey) -> u32 {
        self.queues.get(&share.0).map_or(1, |crowd| crowd.weight(share.1))
    }

    pub(crate) fn is_open(&self, provider: u32, line: u32) -> bool {
        self.gates.get(&provider).is_some_and(|gate| gate.is_open(line))
    }

    fn set_open(&mut self, provider: u32, line: u32, open: bool, now: Instant) {
        let gate = self.gates.get_mut(&provider);
        if !gate.is_some_and(|gate| gate.set_open(line, open)) {
            return;
        }
        let queue = self.lines.get(&line).map(|line| line.line.queue);
        if !queue.is_some_and(|queue| self.paused.contains(&queue)) {
            self.count_group(provider, line, open, now);
        }
    }

    /// All of a line may, or may not, have a turn at a gate.
    pub(crate) fn count_group(&mut self, provider: u32, line: u32, join: bool, now: Instant) {
        let Some(standing) = self.lines.get(&line) else { return };
        let queue = standing.line.queue;
        let counts: Vec<_> = standing.classes.iter().map(|flows| flows.len()).collect();
        for (class, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let weight = self.weight((queue, class));
            let Some(gate) = self.gates.get_mut(&provider) else { return };
            match join {
                true => gate.join((queue, class), weight, count, now),
                false => gate.shares.part((queue, class), count),
            }
        }
    }

    /// Stands in its line, with the turn where it is the first.
    pub(crate) fn join_group(&mut self, ticket: Ticket, now: Instant) {
        let Some((share, line, flow)) = self.position(ticket) else { return };
        let weight = self.weight(share);
        if let Some(standing) = self.lines.get_mut(&line) {
            if standing.classes.len() <= share.1 {
                standing.classes.resize_with(share.1 + 1, Default::default);
            }
            standing.classes[share.1].insert(flow, ticket);
        }
        let paused = self.paused.contains(&share.0);
        for provider in self.providers(line) {
            let gate = self.gates.entry(provider).or_default();
            gate.stands(line, share.0);
            if paused || !gate.is_open(line) {
                continue;
            }
            gate.join(share, weight, 1, now);
            if self.first(provider, now) == Some(ticket) {
                self.offer_to_first(provider, ticket);
            }
        }
    }

    /// It is the first: the turn is its own, unless somebody is looking just now.
    fn offer_to_first(&mut self, provider: u32, ticket: Ticket) {
        let Some(gate) = self.gates.get_mut(&provider) else { return };
        match gate.whose() {
            Some(_) if !gate.rests() => gate.again(),
            Some(other) => {
                self.withdraw_offer(provider, other);
                self.offer(provider, ticket);
            }
            None => self.offer(provider, ticket),
        }
    }

    /// Leaves its line; gives the gates at which somebody else may now have the turn.
    pub(crate) fn leave_group(&mut self, ticket: Ticket, now: Instant) -> Vec<u32> {
        let Some((share, line, flow)) = self.position(ticket) else { return Vec::new() };
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return Vec::new() };
        let turns: Vec<_> = waiter.turns.iter().map(|(provider, _)| *provider).collect();
        let closed: Vec<_> = waiter.closed.drain(..).map(|(provider, _)| provider).collect();
        for provider in &turns {
            self.withdraw_offer(*provider, ticket);
        }
        let paused = self.paused.contains(&share.0);
        for provider in self.providers(line) {
            if let Some(gate) = self.gates.get_mut(&provider)
                && gate.is_open(line)
                && !paused
            {
                gate.shares.part(share, 1);
            }
        }
        if let Some(flows) = self.lines.get_mut(&line).and_then(|l| l.classes.get_mut(share.1)) {
            flows.remove(flow, ticket);
        }
        for provider in &closed {
            self.set_open(*provider, line, true, now);
        }
        self.forget_empty(line);
        turns.into_iter().chain(closed).collect()
    }

    fn forget_empty(&mut self, line: u32) {
        let Some(standing) = self.lines.get(&line) else { return };
        if standing.classes.iter().any(|flows| !flows.is_empty()) {
            return;
        }
        for provider in self.providers(line) {
            if let Some(gate) = self.gates.get_mut(&provider) {
                gate.vanishes(line);
                if gate.is_empty() {
                    self.gates.remove(&provider);
                }
            }
        }
        if let Some(standing) = self.lines.remove(&line) {
            self.line_ids.remove(&standing.line);
        }
    }

    pub(crate) fn remove(&mut self, ticket: Ticket, now: Instant) {
        let queue = self.position(ticket).map(|((queue, _), ..)| queue);
        let free = self.leave_group(ticket, now);
        let waiter = self.waiters.remove(&ticket);
        if let (Some(crowd), Some(waiter)) =
            (queue.and_then(|queue| self.queues.get_mut(&queue)), waiter)
        {
            crowd.remove(&waiter.member);
        }
        free.into_iter().for_each(|provider| self.capacity_available(provider, now));
    }
}
