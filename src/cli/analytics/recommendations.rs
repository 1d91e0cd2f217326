//! `outrigger recommendations`: changes of the policy that the figures call for.

use crate::admin::recommendations::{Recommendation, RecommendationList};
use crate::cli::admin_client::AdminArgs;
use crate::cli::output::indented;

pub fn run(admin: &AdminArgs) -> Result<String, String> {
    admin.get("/api/recommendations")?.print(text)
}

fn text(list: &RecommendationList) -> String {
    if list.recommendations.is_empty() {
        return "none (or too little traffic to tell)".to_owned();
    }
    list.recommendations.iter().map(paragraph).collect::<Vec<_>>().join("\n\n")
}

fn paragraph(one: &Recommendation) -> String {
    let Recommendation { code, text, figures, source, suggestion, .. } = one;
    let figures = figures.iter().map(|figure| format!("{}: {}", figure.name, figure.value));
    let figures = figures.collect::<Vec<_>>().join(", ");
    let at = source.as_ref().map(|at| indented("at", at));
    let lines = [
        Some(code.clone()),
        Some(indented("", text)),
        Some(indented("figures", &figures)),
        at,
        Some(indented("do", suggestion)),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
}
