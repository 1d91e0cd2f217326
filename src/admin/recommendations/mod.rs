//! `/api/recommendations`: advice from the figures of the last hour.
//!
//! Each rule is a pure function over `Evidence`, with a minimum of it: advice from a handful of
//! requests would be noise. A rule states its figures, and the place in the policy that it is about.

mod collect;
mod evidence;
mod of_providers;
mod of_routes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::collect::evidence;
use self::evidence::Evidence;
use super::routes::{ApiJson, ApiRoutes};
use super::state::AdminState;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct RecommendationList {
    /// In the order of their codes.
    pub recommendations: Vec<Recommendation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recommendation {
    /// `provider_at_limit`, `weight_not_followed`, `retry_never_succeeds`, `timeout_below_p99`,
    /// `breaker_flapping`, `fallback_unusable_for_posts`, `route_never_matched` or
    /// `cache_never_hits`.
    pub code: String,
    /// The provider, the endpoint, the route or the cache.
    pub subject: String,
    /// The finding in words.
    pub text: String,
    pub figures: Vec<RecommendationFigure>,
    /// The place in the policy, as `FILE:LINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A change that helps.
    pub suggestion: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecommendationFigure {
    pub name: String,
    pub value: String,
}

pub fn routes() -> ApiRoutes {
    ApiRoutes::default().get::<RecommendationList, _>(
        "/api/recommendations",
        "Lists changes of the policy that the figures of the last hour call for. Empty while there is \
         none, or too little traffic to tell.",
        list,
    )
}

async fn list(State(admin): State<Arc<AdminState>>) -> ApiJson<RecommendationList> {
    ApiJson(RecommendationList { recommendations: recommend(&evidence(&admin)) })
}

/// All recommendations, in the order of the rules.
fn recommend(evidence: &Evidence) -> Vec<Recommendation> {
    let Evidence { providers, endpoints, routes, caches } = evidence;
    let mut all: Vec<_> = providers.iter().filter_map(of_providers::provider_at_limit).collect();
    all.extend(routes.iter().filter_map(of_routes::weight_not_followed));
    all.extend(routes.iter().flat_map(of_routes::retry_never_succeeds));
    all.extend(routes.iter().filter_map(of_routes::timeout_below_p99));
    all.extend(endpoints.iter().filter_map(of_providers::breaker_flapping));
    all.extend(routes.iter().filter_map(of_routes::fallback_unusable_for_posts));
    all.extend(routes.iter().filter_map(of_routes::route_never_matched));
    all.extend(caches.iter().filter_map(of_providers::cache_never_hits));
    all
}

impl Recommendation {
    fn new(code: &str, subject: &str, text: String) -> Recommendation {
        Recommendation {
            code: code.to_owned(),
            subject: subject.to_owned(),
            text,
            figures: Vec::new(),
            source: None,
            suggestion: String::new(),
        }
    }

    fn figure(mut self, name: &str, value: impl ToString) -> Recommendation {
        let figure = RecommendationFigure { name: name.to_owned(), value: value.to_string() };
        self.figures.push(figure);
        self
    }

    fn suggest(mut self, suggestion: &str, source: &Option<String>) -> Recommendation {
        self.suggestion = suggestion.to_owned();
        self.source.clone_from(source);
        self
    }
}

/// `92 %`; one digit more below 10 %.
fn percent(part: f64, of: f64) -> String {
    let percent = 100.0 * part / of;
    if percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}
