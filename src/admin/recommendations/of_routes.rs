//! Advice about routes.

use super::evidence::{RetryEvidence, RouteEvidence, ShareEvidence};
use super::{Recommendation, percent};
use crate::policy::yaml::units::show_duration;

const LEAST_ATTEMPTS: u64 = 100;
/// The part of the attempts that must have gone elsewhere.
const LEAST_DISTANCE: f64 = 0.15;
const LEAST_RETRIES: u64 = 20;
const LEAST_TIMED_OUT: u64 = 10;
const LEAST_NOT_REPEATABLE: u64 = 10;
const LEAST_OTHER_REQUESTS: u64 = 500;

/// The attempts of a route are spread otherwise than its weights want.
pub(super) fn weight_not_followed(one: &RouteEvidence) -> Option<Recommendation> {
    let RouteEvidence { name, shares, .. } = one;
    let attempts: u64 = shares.iter().map(|share| share.attempts).sum();
    let distance = shares.iter().map(|share| (share.wanted - share.seen).abs()).sum::<f64>() / 2.0;
    let is_shared = shares.iter().any(|share| share.is_shared);
    if !one.is_weighted || is_shared || attempts < LEAST_ATTEMPTS || distance < LEAST_DISTANCE {
        return None;
    }
    let behind = |share: &&ShareEvidence| share.wanted - share.seen;
    let least = shares.iter().max_by(|a, b| behind(a).total_cmp(&behind(b)))?;
    let (wanted, seen) = (percent(least.wanted, 1.0), percent(least.seen, 1.0));
    let text = format!(
        "{} got {seen} of the attempts of route {name}; its weight is {wanted}",
        least.endpoint
    );
    let suggestion = "see `outrigger status` and `outrigger breakers` for why the endpoint takes fewer \
                      attempts, or set the weights to the shares that the providers can take";
    let found = Recommendation::new("weight_not_followed", name, text)
        .figure("attempts", attempts)
        .figure("share wanted", wanted)
        .figure("share seen", seen)
        .figure("attempts that went elsewhere", percent(distance, 1.0));
    Some(found.suggest(suggestion, &one.providers_source))
}

/// Retries after a class of outcomes have completed no request.
pub(super) fn retry_never_succeeds(one: &RouteEvidence) -> Vec<Recommendation> {
    let is_vain = |retry: &&RetryEvidence| retry.count >= LEAST_RETRIES && retry.succeeded == 0;
    let recommendation = |retry: &RetryEvidence| {
        let RetryEvidence { reason, count, .. } = retry;
        let text =
            format!("none of {count} retries of route {} after `{reason}` succeeded", one.name);
        let suggestion = format!(
            "remove `{reason}` from `retry_on`, or add another provider to the route: a retry at the \
             same provider only adds load"
        );
        let found = Recommendation::new("retry_never_succeeds", &one.name, text)
            .figure("outcome that caused the retries", reason)
            .figure("retries", count)
            .figure("succeeded", retry.succeeded);
        found.suggest(&suggestion, &one.retry_source)
    };
    one.retries.iter().filter(is_vain).map(recommendation).collect()
}

/// More than one request of a hundred reaches the route's time limit: its 99th percentile would be
/// above it.
pub(super) fn timeout_below_p99(one: &RouteEvidence) -> Option<Recommendation> {
    let RouteEvidence { name, requests, timed_out, timeout, .. } = one;
    if *timed_out < LEAST_TIMED_OUT || 100 * timed_out <= *requests {
        return None;
    }
    let (share, timeout) = (percent(*timed_out as f64, *requests as f64), show_duration(*timeout));
    let text = format!("{share} of the requests of route {name} ended at its time limit");
    let suggestion = "raise `timeout` of the route above the time that the slowest requests take, or \
                      set a shorter time for one attempt under `timeouts` of the provider, so that \
                      time is left for a retry";
    let found = Recommendation::new("timeout_below_p99", name, text)
        .figure("timeout", timeout)
        .figure("requests", requests)
        .figure("ended at the time limit", timed_out);
    Some(found.suggest(suggestion, &one.timeout_source))
}

/// The fallback of a route is of no use to requests that may have been processed.
pub(super) fn fallback_unusable_for_posts(one: &RouteEvidence) -> Option<Recommendation> {
    let RouteEvidence { name, not_repeatable, .. } = one;
    if !one.has_fallback || *not_repeatable < LEAST_NOT_REPEATABLE {
        return None;
    }
    let text = format!(
        "{not_repeatable} failed attempts of route {name} did not move to its fallback, because the \
         provider may have processed the request"
    );
    let suggestion = "set `idempotent: always` on the route if repeating a request does no harm, or \
                      send an `Idempotency-Key` with each";
    let found = Recommendation::new("fallback_unusable_for_posts", name, text)
        .figure("failed attempts that were not repeated", not_repeatable)
        .figure("requests", one.requests);
    Some(found.suggest(suggestion, &one.fallback_source))
}

/// A route has matched no request, while others have.
pub(super) fn route_never_matched(one: &RouteEvidence) -> Option<Recommendation> {
    let RouteEvidence { name, since_start, of_all_routes, .. } = one;
    if *since_start > 0 || *of_all_routes < LEAST_OTHER_REQUESTS {
        return None;
    }
    let text = format!("route {name} has matched no request since the start");
    let suggestion = "check its `match` and its position with `outrigger explain METHOD URL`: the first \
                      route that matches takes the request; remove it if nothing needs it";
    let found = Recommendation::new("route_never_matched", name, text)
        .figure("requests", since_start)
        .figure("requests of other routes", of_all_routes);
    Some(found.suggest(suggestion, &one.source))
}
