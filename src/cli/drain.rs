//! `outrigger drain` and `outrigger undrain`: a provider taken out of use by hand, and put back.

use super::admin_client::{Ask, Change, Failed, escaped};
use super::status::on_it;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The provider's name in the policy.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    ask: Ask,
}

/// `action`: drain or undrain.
///
/// # Errors
/// When the sidecar does not answer, or refuses.
pub fn run(action: &str, args: &Args) -> Result<String, Failed> {
    let path = format!("/api/providers/{action}/{}", escaped(&args.provider));
    let said = args.ask.post(&path, &args.change)?;
    if args.ask.json {
        return Ok(format!("{said:#}"));
    }
    Ok(match said["by_hand"].is_object() {
        true => {
            format!("{}: {}; what is in flight goes on", args.provider, on_it(&said["by_hand"]))
        }
        false => format!("{}: in use", args.provider),
    })
}
