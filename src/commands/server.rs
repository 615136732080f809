//! `agent server`: the embedded server until SIGINT or SIGTERM.

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::cli::server::ServerArgs;
use crate::error::Failure;
use crate::process;
use crate::server::{self, ServerSettings};

/// Serves until it is told to stop.
pub(super) async fn run(args: ServerArgs, context: &Context) -> Result<u8, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let settings = ServerSettings {
        data: args.data,
        listen: args.listen,
        listen_files: args.listen_files,
        public_host: args.public_host,
    };
    let running = server::serve(&settings).await?;
    let config = running.config_path.display().to_string();
    if context.ui.is_json() {
        let addresses = json!({
            "api": running.api_url, "files": running.files_url, "web": running.web_url, "config": config,
        });
        context.ui.print(&addresses.to_string())?;
    } else {
        context.ui.print(&format!(
            "API server   {}\nfile server  {}\nclients      CLEARML_CONFIG_FILE={}",
            running.api_url,
            running.files_url,
            process::command_line(&[config]),
        ))?;
        context.ui.say("Ctrl-C stops it.");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop().await;
    Ok(0)
}
