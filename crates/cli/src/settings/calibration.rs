//! The calibration that `policy.calibration` names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{Calibration, PolicySettings};

use crate::context::Context;
use crate::error::{CliError, unreadable};
use crate::input;

/// Where `latest` is looked for, in the home folder.
pub const CALIBRATIONS_FOLDER: &str = "calibrations";
/// The name for the newest calibration of the home folder.
const LATEST: &str = "latest";

/// Reads the calibration, if one is named.
///
/// # Errors
/// If it is not there or no calibration, and if a loss is allowed without one.
pub(super) fn load(
    settings: &PolicySettings,
    context: &Context,
) -> Result<Option<Arc<Calibration>>, CliError> {
    let Some(name) = &settings.calibration else {
        if settings.max_quality_loss.is_some() {
            return Err(CliError::usage(
                "policy.max_quality_loss is a promise that only a calibration can make: set policy.calibration to \
                 what `tandem calibrate` wrote, or take it out and set policy.confidence_min",
            ));
        }
        return Ok(None);
    };
    let path = match name.as_str() {
        LATEST => latest(&context.home()?.join(CALIBRATIONS_FOLDER))?,
        file => PathBuf::from(file),
    };
    let text = input::text(&path).map_err(|error| error.at("policy.calibration"))?;
    let calibration = Calibration::load(&text)
        .map_err(|error| CliError::usage(format!("policy.calibration: {}: {error}", path.display())))?;
    Ok(Some(Arc::new(calibration)))
}

/// The file that was written last.
fn latest(folder: &Path) -> Result<PathBuf, CliError> {
    let none = || {
        CliError::missing(format!(
            "policy.calibration is \"latest\", and there is none in {}; `tandem calibrate` writes one there",
            folder.display()
        ))
    };
    let entries = std::fs::read_dir(folder).map_err(|_| none())?;
    let mut newest = None;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let written = written.map_err(|error| unreadable(&path, &error))?;
        newest = newest.max(Some((written, path)));
    }
    newest.map(|(_, path)| path).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::GlobalArgs;
    use crate::environment::Environment;

    #[test]
    fn a_calibration_that_is_not_there_or_none_is_named() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from([("TANDEM_HOME", home.path().to_str().unwrap())]);
        let context = Context::new(&GlobalArgs { json: false, threads: None }, environment).unwrap();
        let named = |name: &str| PolicySettings { calibration: Some(name.to_owned()), ..Default::default() };
        assert_eq!(load(&PolicySettings::default(), &context).unwrap(), None);
        let promise = PolicySettings { max_quality_loss: Some(0.02), ..Default::default() };
        assert_eq!(load(&promise, &context).unwrap_err().exit_code(), 2);
        assert_eq!(load(&named("latest"), &context).unwrap_err().exit_code(), 3);
        assert_eq!(load(&named("no/such.json"), &context).unwrap_err().exit_code(), 3);
        let folder = home.path().join(CALIBRATIONS_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a.json"), "{}").unwrap();
        std::fs::write(folder.join("notes.txt"), "").unwrap();
        let error = load(&named("latest"), &context).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("a.json: not a calibration"), "{error}");
    }
}
