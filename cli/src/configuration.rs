//! `annulus config`.

use annulus_daemon::exit::{Exit, Failure};
use annulus_daemon::settings::EXAMPLE;
use annulus_daemon::{group_file, identity};
use clap::Subcommand;

use crate::Target;
use crate::output::{Output, table};

#[derive(Subcommand, Debug)]
pub(crate) enum Config {
    /// Print a commented example of annulus.toml
    Example,
    /// Read this host's configuration, groups, keys and certificates, and say what is wrong
    Check(Target),
}

impl Config {
    /// `check` ends with 2 and the first fault.
    pub(crate) fn run(&self, output: &Output) -> Result<Exit, Failure> {
        let target = match self {
            Self::Example => {
                output.json(&serde_json::json!({ "text": EXAMPLE }));
                output.text(EXAMPLE.trim_end());
                return Ok(Exit::Done);
            }
            Self::Check(target) => target,
        };
        let settings = target.settings()?;
        let groups = group_file::load_all(&settings.groups_dir).map_err(Failure::usage)?;
        let wall = annulus_daemon::clock::wall();
        let mut rows = Vec::new();
        let mut json = Vec::new();
        for group in &groups {
            let member = identity::load(group).map_err(Failure::usage)?;
            let certificate = member.identity.certificate();
            let days = certificate.not_after().saturating_since(wall) / 86_400;
            rows.push([
                group.name.clone(),
                certificate.node_name().to_owned(),
                certificate.user().to_owned(),
                format!("{days} days"),
                group.file.display().to_string(),
            ]);
            json.push(serde_json::json!({
                "name": group.name, "node_name": certificate.node_name(), "node_id": certificate.node_id().to_string(),
                "certificate_not_after": certificate.not_after().0, "file": group.file,
            }));
        }
        output.json(&serde_json::json!({
            "config": settings.config, "state_dir": settings.state_dir, "control_socket": settings.control_socket,
            "listen": settings.listen, "groups": json,
        }));
        output.text(format_args!(
            "configuration   {}{}\nstate           {}\ncontrol socket  {}\nlisten          {}\n",
            settings.config.display(),
            if settings.config.exists() { "" } else { " (does not exist: defaults)" },
            settings.state_dir.display(),
            settings.control_socket.display(),
            settings.listen
        ));
        output.text(table(["GROUP", "NODE", "USER", "CERTIFICATE LASTS", "FILE"], &[3], rows));
        if groups.is_empty() {
            output.note(annulus_daemon::preflight::no_group(&settings));
        }
        Ok(Exit::Done)
    }
}
