//! `outrigger backup`: a consistent copy of the job store.

use std::path::PathBuf;

use crate::app::StoreDir;
use crate::store;

/// Copy the job store to a file.
///
/// The sidecar may be running. To restore, put the file as outrigger.db into an empty directory and start the sidecar with --data on that directory.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  outrigger backup /var/backups/outrigger.db --data /var/lib/outrigger"
)]
pub struct BackupArgs {
    /// The file to write; it must not exist.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The directory of the job store, as for `outrigger run`.
    #[arg(long, env = "OUTRIGGER_DATA", value_name = "DIR")]
    data: Option<StoreDir>,
}

pub fn run(args: &BackupArgs) -> Result<String, String> {
    let data = args.data.clone().unwrap_or_else(StoreDir::from_environment);
    let (StoreDir::Default(directory) | StoreDir::Explicit(directory)) = data else {
        return Err("there is no job store (choose its directory with --data)".to_owned());
    };
    store::backup(&directory, &args.file).map_err(|error| error.to_string())?;
    Ok(format!("copied {} to {}", directory.display(), args.file.display()))
}
