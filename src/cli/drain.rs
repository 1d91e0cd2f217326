//! `outrigger drain` and `outrigger undrain`: takes a provider out of use, and puts it back.

use super::admin_client::{AdminArgs, ChangeArgs, NoteArgs, encode};
use super::output::manual_override;
use crate::admin::change::{Action, ChangeRequest};
use crate::admin::providers::{ProviderAction, ProviderChanged};

/// Stop sending new attempts to a provider, until `undrain` or the end of --for.
///
/// Attempts in flight finish. Routes use their other providers and fallbacks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger drain openai --for 15m --reason \"key rotation\"")]
pub struct DrainArgs {
    /// The provider's name in the policy.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Use a drained provider again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  outrigger undrain openai")]
pub struct UndrainArgs {
    /// The provider's name in the policy.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    #[command(flatten)]
    note: NoteArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn drain(args: &DrainArgs) -> Result<String, String> {
    change(&args.admin, ProviderAction::Drain, &args.provider, &args.change.request())
}

pub fn undrain(args: &UndrainArgs) -> Result<String, String> {
    change(&args.admin, ProviderAction::Undrain, &args.provider, &args.note.request())
}

fn change(
    admin: &AdminArgs,
    action: ProviderAction,
    provider: &str,
    request: &ChangeRequest,
) -> Result<String, String> {
    let path = format!("/api/providers/{}/{}", action.as_str(), encode(provider));
    admin.post(&path, request)?.print(|reply: &ProviderChanged| match &reply.manual_override {
        Some(active) => {
            format!("{provider}: {}; attempts in flight finish", manual_override(Some(active)))
        }
        None => format!("{provider}: in use"),
    })
}
