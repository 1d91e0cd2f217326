//! Dispatch: which waiter each gate offers capacity to, and what happens to the offer. The
//! other half of [`WaitQueue`].

use std::time::Instant;

use super::gate::{ClassKey, Gate, Offer};
use super::wait_queue::{GroupKey, Ticket, WaitQueue, WaiterGroup};

impl WaitQueue {
    /// Takes the waiters that have something to check since the last call.
    pub fn take_woken(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.woken)
    }

    /// The gates that offer to this waiter.
    pub fn offers(&self, ticket: Ticket) -> Vec<u32> {
        let offers = self.waiters.get(&ticket).map(|waiter| &waiter.offers);
        offers.into_iter().flatten().map(|(provider, _)| *provider).collect()
    }

    pub fn is_offered(&self, ticket: Ticket, provider: u32) -> bool {
        self.gates.get(&provider).and_then(Gate::offered_to) == Some(ticket)
    }

    /// Whether it has an offer that it has not checked yet.
    pub fn has_new_offer(&self, ticket: Ticket) -> bool {
        let waiter = self.waiters.get(&ticket);
        waiter.is_some_and(|waiter| waiter.offers.iter().any(|(_, until)| until.is_none()))
    }

    /// A provider may have capacity.
    pub fn capacity_available(&mut self, provider: u32, now: Instant) {
        let Some(gate) = self.gates.get_mut(&provider) else { return };
        if let Some(offer) = &mut gate.offer {
            offer.recheck = true;
            return;
        }
        if let Some(first) = self.first(provider, now) {
            self.offer(provider, first);
            self.woken.push(first);
        }
    }

    /// Breakers or holds of a provider may have changed: every group may be offered again,
    /// and deferred offers too.
    pub fn conditions_changed(&mut self, provider: u32, now: Instant) {
        let Some(gate) = self.gates.get(&provider) else { return };
        for group_id in gate.blocked_groups() {
            self.set_open(provider, group_id, true, now);
        }
        match self.gates.get_mut(&provider).and_then(|gate| gate.offer.as_mut()) {
            Some(Offer { waiter, deferred: true, .. }) => {
                let waiter = *waiter;
                self.reoffer(provider, waiter, now);
            }
            Some(offer) => (offer.changed, offer.recheck) = (true, true),
            None => self.capacity_available(provider, now),
        }
    }

    /// The provider's rate limit defers the offer until then.
    pub fn defer(&mut self, ticket: Ticket, provider: u32, until: Instant, now: Instant) {
        if !self.is_offered(ticket, provider) {
            return;
        }
        if let Some(offer) = self.offer_of(provider) {
            offer.deferred = true;
        }
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            let own = waiter.offers.iter_mut().filter(|(at, _)| *at == provider);
            own.for_each(|(_, deferred_until)| *deferred_until = Some(until));
        }
        if self.first(provider, now) != Some(ticket) {
            self.reoffer(provider, ticket, now);
        }
    }

    /// A breaker or hold blocks its group until then; unless that changed during the
    /// check: then another check follows.
    pub fn block_group(&mut self, ticket: Ticket, provider: u32, until: Instant, now: Instant) {
        if !self.is_offered(ticket, provider) {
            return;
        }
        let changed = self.offer_of(provider).is_some_and(|offer| offer.changed);
        let waiter = self.waiters.get_mut(&ticket).filter(|_| !changed);
        if let Some(waiter) = waiter {
            waiter.blocked.push((provider, until));
            let group_id = waiter.group;
            self.set_open(provider, group_id, false, now);
        }
        self.withdraw_offer(provider, ticket);
        self.capacity_available(provider, now);
    }

    /// The offer found no free capacity.
    pub fn decline(&mut self, ticket: Ticket, provider: u32, now: Instant) {
        if self.is_offered(ticket, provider) && self.withdraw_offer(provider, ticket) {
            self.capacity_available(provider, now);
        }
    }

    /// When the waiter must check again without an offer.
    pub fn next_check(&self, ticket: Ticket) -> Option<Instant> {
        let waiter = self.waiters.get(&ticket)?;
        let until = waiter.offers.iter().filter_map(|(_, until)| *until);
        until.chain(waiter.blocked.iter().map(|(_, until)| *until)).min()
    }

    /// Ends what is due: deferred offers are made again, blocked groups unblocked.
    pub fn expire_timers(&mut self, ticket: Ticket, now: Instant) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        let group_id = waiter.group;
        let open: Vec<_> = waiter.blocked.extract_if(.., |(_, until)| *until <= now).collect();
        let over = |(at, until): &(u32, Option<Instant>)| until.filter(|u| *u <= now).map(|_| *at);
        let rested: Vec<_> = waiter.offers.iter().filter_map(over).collect();
        for provider in rested {
            self.reoffer(provider, ticket, now);
        }
        for (provider, _) in open {
            self.set_open(provider, group_id, true, now);
            self.capacity_available(provider, now);
        }
    }
}

impl WaitQueue {
    /// The waiter that the gate would offer to.
    pub(crate) fn first(&mut self, provider: u32, now: Instant) -> Option<Ticket> {
        let order: Vec<(ClassKey, u32)> = self.gates.get(&provider)?.order().collect();
        for (ClassKey { queue, class }, group_id) in order {
            if self.paused.contains(&queue) {
                continue;
            }
            let waiters = self.queues.get_mut(&queue);
            let newest = waiters.is_some_and(|waiters| waiters.newest_first(class, now));
            let group = self.groups.get(&group_id);
            let first = group.and_then(|group| group.classes.get(class)?.first(newest));
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
            gate.offer_to(to);
            waiter.offers.push((provider, None));
        }
    }

    /// Ends an offer; whether capacity came back meanwhile.
    fn withdraw_offer(&mut self, provider: u32, from: Ticket) -> bool {
        if let Some(waiter) = self.waiters.get_mut(&from) {
            waiter.offers.retain(|(at, _)| *at != provider);
        }
        let offer = self.gates.get_mut(&provider).and_then(|gate| gate.offer.take());
        offer.is_some_and(|offer| offer.recheck)
    }

    fn offer_of(&mut self, provider: u32) -> Option<&mut Offer> {
        self.gates.get_mut(&provider)?.offer.as_mut()
    }

    /// Ends a deferred offer and offers to the first waiter.
    fn reoffer(&mut self, provider: u32, from: Ticket, now: Instant) {
        self.withdraw_offer(provider, from);
        self.capacity_available(provider, now);
    }

    /// The number of the group with this key.
    pub(crate) fn group_id(&mut self, key: GroupKey) -> u32 {
        if let Some(id) = self.group_ids.get(&key) {
            return *id;
        }
        self.next_group = self.next_group.wrapping_add(1);
        self.group_ids.insert(key.clone(), self.next_group);
        self.groups.insert(self.next_group, WaiterGroup { key, classes: Vec::new() });
        self.next_group
    }

    /// The class, group and flow of a waiter.
    pub(crate) fn position(&self, ticket: Ticket) -> Option<(ClassKey, u32, u64)> {
        let waiter = self.waiters.get(&ticket)?;
        let queue = self.groups.get(&waiter.group)?.key.queue;
        Some((ClassKey { queue, class: waiter.request.class }, waiter.group, waiter.request.flow))
    }

    pub(crate) fn providers(&self, group_id: u32) -> Box<[u32]> {
        self.groups.get(&group_id).map(|group| group.key.providers.clone()).unwrap_or_default()
    }

    fn weight(&self, share: ClassKey) -> u32 {
        self.queues.get(&share.queue).map_or(1, |waiters| waiters.weight(share.class))
    }

    pub(crate) fn is_open(&self, provider: u32, group_id: u32) -> bool {
        self.gates.get(&provider).is_some_and(|gate| gate.is_open(group_id))
    }

    fn set_open(&mut self, provider: u32, group_id: u32, open: bool, now: Instant) {
        let gate = self.gates.get_mut(&provider);
        if !gate.is_some_and(|gate| gate.set_open(group_id, open)) {
            return;
        }
        let queue = self.groups.get(&group_id).map(|group| group.key.queue);
        if !queue.is_some_and(|queue| self.paused.contains(&queue)) {
            self.count_group(provider, group_id, open, now);
        }
    }

    /// Adds or removes all waiters of a group at a gate.
    pub(crate) fn count_group(&mut self, provider: u32, group_id: u32, join: bool, now: Instant) {
        let Some(group) = self.groups.get(&group_id) else { return };
        let queue = group.key.queue;
        let counts: Vec<_> = group.classes.iter().map(|flows| flows.len()).collect();
        for (class, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let weight = self.weight(ClassKey { queue, class });
            let Some(gate) = self.gates.get_mut(&provider) else { return };
            match join {
                true => gate.join(ClassKey { queue, class }, weight, count, now),
                false => gate.shares.remove(ClassKey { queue, class }, count),
            }
        }
    }

    /// Adds a waiter to its group, with an offer where it is the first.
    pub(crate) fn join_group(&mut self, ticket: Ticket, now: Instant) {
        let Some((share, group_id, flow)) = self.position(ticket) else { return };
        let weight = self.weight(share);
        if let Some(group) = self.groups.get_mut(&group_id) {
            if group.classes.len() <= share.class {
                group.classes.resize_with(share.class + 1, Default::default);
            }
            group.classes[share.class].insert(flow, ticket);
        }
        let paused = self.paused.contains(&share.queue);
        for provider in self.providers(group_id) {
            let gate = self.gates.entry(provider).or_default();
            gate.add_group(group_id, share.queue);
            if paused || !gate.is_open(group_id) {
                continue;
            }
            gate.join(share, weight, 1, now);
            if self.first(provider, now) == Some(ticket) {
                self.offer_to_first(provider, ticket);
            }
        }
    }

    /// Offers to the first waiter, unless another one is checking right now.
    fn offer_to_first(&mut self, provider: u32, ticket: Ticket) {
        let Some(gate) = self.gates.get_mut(&provider) else { return };
        match &mut gate.offer {
            Some(Offer { waiter, deferred: true, .. }) => {
                let other = *waiter;
                self.withdraw_offer(provider, other);
                self.offer(provider, ticket);
            }
            Some(offer) => offer.recheck = true,
            None => self.offer(provider, ticket),
        }
    }

    /// Removes a waiter from its group; returns the gates that may offer to another
    /// waiter.
    pub(crate) fn leave_group(&mut self, ticket: Ticket, now: Instant) -> Vec<u32> {
        let Some((share, group_id, flow)) = self.position(ticket) else { return Vec::new() };
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return Vec::new() };
        let offers: Vec<_> = waiter.offers.iter().map(|(provider, _)| *provider).collect();
        let blocked: Vec<_> = waiter.blocked.drain(..).map(|(provider, _)| provider).collect();
        for provider in &offers {
            self.withdraw_offer(*provider, ticket);
        }
        let paused = self.paused.contains(&share.queue);
        for provider in self.providers(group_id) {
            if let Some(gate) = self.gates.get_mut(&provider)
                && gate.is_open(group_id)
                && !paused
            {
                gate.shares.remove(share, 1);
            }
        }
        if let Some(flows) =
            self.groups.get_mut(&group_id).and_then(|group| group.classes.get_mut(share.class))
        {
            flows.remove(flow, ticket);
        }
        for provider in &blocked {
            self.set_open(*provider, group_id, true, now);
        }
        self.forget_empty(group_id);
        offers.into_iter().chain(blocked).collect()
    }

    fn forget_empty(&mut self, group_id: u32) {
        let Some(group) = self.groups.get(&group_id) else { return };
        if group.classes.iter().any(|flows| !flows.is_empty()) {
            return;
        }
        for provider in self.providers(group_id) {
            if let Some(gate) = self.gates.get_mut(&provider) {
                gate.remove_group(group_id);
                if gate.is_empty() {
                    self.gates.remove(&provider);
                }
            }
        }
        if let Some(group) = self.groups.remove(&group_id) {
            self.group_ids.remove(&group.key);
        }
    }

    /// Removes a waiter, for whatever reason.
    pub fn remove(&mut self, ticket: Ticket, now: Instant) {
        let queue = self.position(ticket).map(|(share, ..)| share.queue);
        let free = self.leave_group(ticket, now);
        let waiter = self.waiters.remove(&ticket);
        if let (Some(waiters), Some(waiter)) =
            (queue.and_then(|queue| self.queues.get_mut(&queue)), waiter)
        {
            waiters.remove(&waiter.request);
        }
        free.into_iter().for_each(|provider| self.capacity_available(provider, now));
    }
}
