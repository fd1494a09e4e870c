//! What a client may send wrong, against the default pair; and conversations that a model's chat
//! template refuses.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::real::python::Script;
use crate::real::report::Report;
use crate::real::rig::{LARGE, Rig, SMALL};
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "bad_input", about: "bad requests get their 4xx with a clear message", run };

/// A model without a chat template.
const BASE: &str = "gemma3-270m";
/// A model whose template takes roles in any order, as all of the catalogue's do.
const LENIENT: &str = "smollm2-135m";
/// A template that does not; it must not be longer than the one it takes the place of.
const STRICT_TEMPLATE: &str = "{%- for message in messages %}\
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
    {{- raise_exception('roles must alternate') }}{%- endif %}\
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
    {%- endfor %}{{- '<|im_start|>assistant\n' }}";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let python = Path::new("python3");
    let server = rig.serve(&rig.scratch("bad_input")?, &["--small", SMALL, "--large", LARGE])?;
    let pid = server.pid().to_string();
    Script { python, file: "bad_input.py", arguments: &[&server.url(), &pid] }.report(report)?;
    drop(server);
    let scratch = rig.scratch("templates")?;
    let strict = strict_model(rig, &scratch)?;
    let server = rig.serve(&scratch, &["--small", BASE, "--large", &strict.to_string_lossy()])?;
    Script { python, file: "templates.py", arguments: &[&server.url()] }.report(report)
}

/// A copy of a model file with another chat template in the place of its own.
fn strict_model(rig: &Rig, scratch: &Path) -> Result<PathBuf, String> {
    let templates = rig.golden_path("chat_templates_source.json");
    let failed = |path: &Path, error: String| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&templates).map_err(|error| failed(&templates, error.to_string()))?;
    let text: Value = serde_json::from_str(&text).map_err(|error| failed(&templates, error.to_string()))?;
    let template = golden::text(&text, LENIENT)?;
    let file = PathBuf::from(rig.model_file(LENIENT)?);
    let mut bytes = fs::read(&file).map_err(|error| failed(&file, error.to_string()))?;
    replace(&mut bytes, template, STRICT_TEMPLATE).map_err(|problem| failed(&file, problem))?;
    let strict = scratch.join("strict.gguf");
    fs::write(&strict, bytes).map_err(|error| failed(&strict, error.to_string()))?;
    Ok(strict)
}

/// Puts `new` where `old` stands, filled up with spaces behind a Jinja tag: nothing else may move.
fn replace(bytes: &mut [u8], old: &str, new: &str) -> Result<(), String> {
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes());
    let place = at.and_then(|at| bytes.get_mut(at..at + old.len()));
    let place = place.ok_or("the file does not hold the template that is known of it")?;
    // `-}}` and an empty tag swallow the spaces.
    let filled = format!("{new}{:width$}{{{{- '' }}}}", "", width = old.len().saturating_sub(new.len() + 9));
    if filled.len() != place.len() {
        return Err("the new template is longer than the old one".to_owned());
    }
    place.copy_from_slice(filled.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_moves() {
        let mut bytes = b"head {{ a long old template }} tail".to_vec();
        replace(&mut bytes, "{{ a long old template }}", "new").unwrap();
        assert_eq!(bytes, b"head new             {{- '' }} tail");
        assert!(replace(&mut bytes, "absent", "").is_err());
        assert!(replace(&mut bytes, "tail", "much longer").is_err());
    }

    #[test]
    fn the_strict_template_fits() {
        let file = crate::root().join("tests/golden/chat_templates_source.json");
        let text: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let template = text[LENIENT].as_str().unwrap();
        let mut bytes = template.as_bytes().to_vec();
        replace(&mut bytes, template, STRICT_TEMPLATE).unwrap();
        assert!(bytes.starts_with(STRICT_TEMPLATE.as_bytes()));
    }
}
