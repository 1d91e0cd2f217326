//! `outrigger backup`: a copy of the store as it is at one moment.

use std::path::PathBuf;

use super::admin_client::Failed;
use crate::app::Data;
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file that is written; put it as outrigger.db into an empty directory to run on it.
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// As the sidecar's.
    #[arg(long, env = "OUTRIGGER_DATA", value_name = "DIR")]
    data: Option<Data>,
}

/// # Errors
/// When the store cannot be read, or the file exists or cannot be written.
pub fn run(args: &Args) -> Result<String, Failed> {
    let data = args.data.clone().unwrap_or_else(|| Data::usual(|name| std::env::var_os(name)));
    let (Data::Usual(directory) | Data::Dir(directory)) = data else {
        return Err(Failed("there is no directory of jobs (name it with --data DIR)".to_owned()));
    };
    store::backup(&directory, &args.to).map_err(|error| Failed(error.to_string()))?;
    Ok(format!("{} is copied to {}", directory.display(), args.to.display()))
}
