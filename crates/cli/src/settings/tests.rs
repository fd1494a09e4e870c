//! Tests of the settings' second stage, from file text and environment to [`Settings`].

use std::num::NonZeroUsize;

use planner::split::{KvKind, Wanted};
use store::Reference;

use super::roles::UpstreamSettings;
use super::*;
use crate::context::GlobalArgs;
use crate::environment::Environment;

/// A folder with a configuration file.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tandem.toml"), file).unwrap();
        Fixture { folder }
    }

    fn load(&self, variables: &[(&str, &str)], args: SettingsArgs) -> Result<Settings, CliError> {
        self.load_with(variables, args, None)
    }

    fn load_with(
        &self,
        variables: &[(&str, &str)],
        args: SettingsArgs,
        threads: Option<usize>,
    ) -> Result<Settings, CliError> {
        let home = self.folder.path().to_str().unwrap();
        let pairs = variables.iter().copied().chain([("TANDEM_HOME", home)]);
        let environment: Environment = pairs.collect();
        let global = GlobalArgs { json: false, threads: threads.and_then(NonZeroUsize::new) };
        let context = Context::new(&global, environment)?;
        let config = Some(self.folder.path().join("tandem.toml"));
        load(SettingsArgs { config, ..args }.flags(), &context)
    }
}

fn of_file(file: &str) -> Result<Settings, CliError> {
    Fixture::new(file).load(&[], SettingsArgs::default())
}

fn local(role: &RoleSettings) -> &LocalSettings {
    match role {
        RoleSettings::Local(local) => local,
        RoleSettings::Upstream(_) => panic!("an upstream"),
    }
}

fn upstream(role: &RoleSettings) -> &UpstreamSettings {
    match role {
        RoleSettings::Local(_) => panic!("a local model"),
        RoleSettings::Upstream(upstream) => upstream,
    }
}

#[test]
fn without_settings_the_default_pair_is_served_here() {
    let settings = of_file("").unwrap();
    let (small, large) = (local(&settings.small), local(&settings.large));
    assert_eq!(small.reference, Reference::Catalogue("qwen2.5-coder-0.5b".into()));
    assert_eq!(large.reference, Reference::Catalogue("qwen2.5-coder-1.5b".into()));
    let open = Wanted {
        context_tokens: None,
        sequences: None,
        kv_tokens: None,
        batch_tokens: None,
        kv: KvKind::F16,
    };
    assert_eq!((small.wanted, large.wanted), (open, open));
    assert_eq!(settings.gateway.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.policy.kind, "cascade");
    assert!(settings.ledger.path.ends_with("ledger.db"));
    assert_eq!(settings.memory_bytes, None);
}

#[test]
fn the_documented_file_works() {
    let file = r#"
        [server]
        listen = "0.0.0.0:9000"
        api_keys = ["a", "b"]
        memory = "3GiB"
        [small]
        model = "smollm2-135m"
        [large]
        url = "http://localhost:8000/v1"
        model = "big"
        api_key_env = "BIG_KEY"
        price = { input_usd_per_mtok = 0.5, cached_input_usd_per_mtok = 0.05, output_usd_per_mtok = 1.5 }
        idle_timeout_ms = 5000
        [policy]
        kind = "cascade"
        confidence_min = 1
        [ledger]
        path = "somewhere.db"
        keep_text = "hashes"
    "#;
    let fixture = Fixture::new(file);
    let settings = fixture.load(&[("BIG_KEY", "sk-secret")], SettingsArgs::default()).unwrap();
    assert_eq!(settings.memory_bytes, Some(3 << 30));
    assert_eq!(settings.gateway.api_keys.len(), 2);
    let large = upstream(&settings.large);
    assert_eq!(large.openai.api_key.as_ref().unwrap().expose(), "sk-secret");
    assert_eq!(large.openai.price.output_usd_per_mtok, 1.5);
    assert_eq!(large.openai.idle_timeout_ms, 5000);
    assert_eq!(settings.policy.confidence_min, 1.0);
    assert_eq!(settings.ledger.settings.keep_text, ledger::KeepText::Hashes);

    let missing = fixture.load(&[], SettingsArgs::default()).unwrap_err();
    assert!(missing.exit_code() == 2 && missing.to_string().contains("BIG_KEY"), "{missing}");
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let fixture = Fixture::new("[server]\nthreads = 3\nmemory = 100\n[policy]\nkind = \"small\"");
    let load = |variables, args, threads| fixture.load_with(variables, args, threads).unwrap();
    let none = SettingsArgs::default;
    assert_eq!(load(&[], none(), None).policy.kind, "small");
    assert_eq!(load(&[("TANDEM_POLICY_KIND", "large")], none(), None).policy.kind, "large");
    let flag = SettingsArgs { policy: Some("cascade".into()), ..none() };
    assert_eq!(load(&[("TANDEM_POLICY_KIND", "large")], flag, None).policy.kind, "cascade");
    assert_eq!(load(&[], none(), None).threads, 3);
    assert_eq!(load(&[("TANDEM_THREADS", "4")], none(), None).threads, 4);
    assert_eq!(load(&[("TANDEM_THREADS", "4")], none(), Some(5)).threads, 5);
    assert_eq!(load(&[("TANDEM_MEMORY", "2KiB")], none(), None).memory_bytes, Some(2048));
    let flag = SettingsArgs { memory: Some("1GiB".into()), context: Some("512".into()), ..none() };
    let settings = load(&[("TANDEM_MEMORY", "2KiB")], flag, None);
    assert_eq!(settings.memory_bytes, Some(1 << 30));
    assert_eq!(local(&settings.large).wanted.context_tokens, Some(512));
}

#[test]
fn a_large_url_drops_the_local_model_and_may_name_its_own() {
    let url = || Some("http://localhost:9/v1".to_owned());
    let fixture = Fixture::new("[large]\nmodel = \"smollm2-135m\"\nsequences = 2");
    let args = SettingsArgs { large: url(), ..SettingsArgs::default() };
    assert!(!upstream(&fixture.load(&[], args.clone()).unwrap().large).is_named);
    let args = SettingsArgs { large_model: Some("served".into()), ..args };
    assert_eq!(upstream(&fixture.load(&[], args).unwrap().large).openai.model, "served");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (file, code, words) in [
        ("[server]\nlisten = \"nowhere\"", 2, "listen"),
        ("[server]\nqueue_max = -1", 2, "queue_max"),
        ("[server]\nconcurrent_max = 0", 2, "concurrent_max"),
        ("[server]\nmemory = \"lots\"", 2, "server.memory"),
        ("[server]\nthreads = 0", 2, "server.threads"),
        ("[small]\nmodel = \"no-such-model\"", 3, "small.model"),
        ("[small]\nmodel = \"no/such.gguf\"", 3, "check the path"),
        ("[small]\nstream = true", 2, "small.stream has no meaning without a url"),
        ("[large]\nurl = \"http://h\"\nmodel = \"m\"\nsequences = 2", 2, "no meaning with a url"),
        ("[large]\nurl = \"localhost\"\nmodel = \"m\"", 2, "can't be used"),
        ("[small]\nsequences = 0", 2, "small.sequences"),
        ("[small]\nbatch_tokens = 8", 2, "small.batch_tokens is 8; it must be in 16..=512"),
        ("[small]\nbatch_tokens = 32\nsequences = 33", 2, "fewer than the 33 sequences"),
        ("[large]\nkv_type = \"q5\"", 2, "one of f16, q8, k8v4, q4"),
        ("[server]\nhttp_bytes_max = 1", 2, "http_bytes_max"),
        ("[small]\nprice = { output_usd_per_mtok = -1 }", 2, "output_usd_per_mtok"),
        ("[small]\nprice = { usd = 1 }", 2, "usd"),
        ("[policy]\nkind = \"casacde\"", 2, "casacde"),
        ("[policy]\nconfidence_min = 2", 2, "confidence_min"),
        ("[ledger]\nkeep_text = \"all\"", 2, "keep_text"),
        ("[ledger]\nqueue_rows_max = 0", 2, "queue_rows_max"),
        ("[ledger]\npath = \"\"", 2, "ledger.path"),
        ("[speculative]\ndrafter = \"eagle\"", 2, "one of auto, prompt-lookup, model, chain"),
        ("[speculative]\nenabled = 1", 2, "speculative.enabled must be true or false"),
        ("[speculative]\nmodel = \"no/such.gguf\"", 3, "speculative.model"),
        ("[speculative]\ndrafter = \"prompt-lookup\"\nmodel = \"smollm2-135m\"", 2, "has no meaning"),
        ("[cache]\npacked_bytes_max = \"some\"", 2, "cache.packed_bytes_max"),
        ("[cache]\npacked = 1", 2, "cache.packed must be true or false"),
    ] {
        let error = of_file(file).unwrap_err();
        assert_eq!(error.exit_code(), code, "{file:?}: {error}");
        assert!(error.to_string().contains(words), "{file:?}: {error}");
    }
}

#[test]
fn what_is_shown_is_a_configuration_that_means_the_same() {
    let url = "[large]\nurl = \"http://h/v1\"\nmodel = \"m\"\napi_key_env = \"KEY\"\ncontext_tokens = 7\n";
    let extra = "[server]\nmemory = \"1GiB\"\nrequest_tokens_max = 9\n[small]\nkv_tokens = 300\n\
                 [speculative]\ndrafter = \"chain\"\nmodel = \"smollm2-135m\"\ncoarse_weights = true\n";
    for file in [String::new(), format!("{url}{extra}")] {
        let variables = [("KEY", "sk-secret")];
        let settings = Fixture::new(&file).load(&variables, SettingsArgs::default()).unwrap();
        let shown = effective_toml(&settings).unwrap();
        assert!(!shown.contains("secret"), "{shown}");
        let again = Fixture::new(&shown).load(&variables, SettingsArgs::default()).unwrap();
        // What was left open is shown as it was chosen: then nothing is open any more.
        let again = Settings { file: None, open: settings.open, ..again };
        assert_eq!(again, Settings { file: None, ..settings });
    }
}

#[test]
fn tokens_are_drafted_unless_told_otherwise() {
    let with = |file: &str, variables: &[(&str, &str)], flag: Option<&str>| {
        let args = SettingsArgs { speculative: flag.map(str::to_owned), ..SettingsArgs::default() };
        Fixture::new(file).load(variables, args).map(|settings| settings.speculative)
    };
    let settings = with("", &[], None).unwrap();
    let default =
        SpeculativeSettings { enabled: true, drafter: DrafterKind::Auto, model: None, coarse_weights: false };
    assert_eq!(settings, default);
    assert!(!settings.asks_for_model());
    let off = "[speculative]\nenabled = false\ndrafter = \"chain\"";
    assert!(!with(off, &[], None).unwrap().enabled);
    assert!(!with(off, &[], None).unwrap().asks_for_model());
    assert!(with(off, &[("TANDEM_SPECULATIVE_ENABLED", "true")], None).unwrap().asks_for_model());
    assert!(!with("", &[("TANDEM_SPECULATIVE_ENABLED", "true")], Some("false")).unwrap().enabled);
    assert!(with("[speculative]\ncoarse_weights = true", &[], None).unwrap().coarse_weights);
    let named = with("", &[("TANDEM_SPECULATIVE_MODEL", "smollm2-135m")], None).unwrap();
    assert_eq!(named.model.as_ref().unwrap().name, "smollm2-135m");
    assert!(named.asks_for_model() && !named.alone().asks_for_model());
    assert_eq!(with("", &[], Some("often")).unwrap_err().exit_code(), 2);
}

#[test]
fn packed_weights_are_kept_at_home_unless_told_otherwise() {
    let cache = |variables| {
        Fixture::new("[cache]\npacked_bytes_max = \"3GiB\"").load(variables, SettingsArgs::default())
    };
    let settings = cache(&[]).unwrap().cache;
    assert_eq!(settings, CacheSettings { packed: true, packed_bytes_max: 3 << 30 });
    let settings =
        cache(&[("TANDEM_CACHE_PACKED", "false"), ("TANDEM_CACHE_PACKED_BYTES_MAX", "7")]).unwrap().cache;
    assert_eq!(settings, CacheSettings { packed: false, packed_bytes_max: 7 });

    let global = GlobalArgs { json: false, threads: None };
    let at_home = Context::new(&global, Environment::from([("TANDEM_HOME", "home")])).unwrap();
    let kept = CacheSettings { packed: true, packed_bytes_max: 7 };
    let folder = Path::new("home").join("packed");
    assert_eq!(kept.packed(&at_home), Some(engine::packed::PackedCache { folder, bytes_max: 7 }));
    assert_eq!(settings.packed(&at_home), None);
    let homeless = Context::new(&global, Environment::default()).unwrap();
    assert_eq!(kept.packed(&homeless), None);
}

#[test]
fn api_keys_are_masked() {
    let fixture = Fixture::new("[server]\napi_keys = [\"sk-one\"]");
    let variables = [("TANDEM_API_KEYS", "sk-two, sk-three")];
    let settings = fixture.load(&variables, SettingsArgs::default()).unwrap();
    assert_eq!(settings.gateway.api_keys.len(), 2);
    let shown = format!("{settings:?} {}", effective_toml(&settings).unwrap());
    assert!(!shown.contains("sk-") && shown.contains("***"), "{shown}");
}

#[test]
fn every_setting_of_the_parts_has_a_key() {
    let known = |section: &str, name: &str| {
        let section = keys::SECTIONS.iter().find(|known| known.name == section).unwrap();
        section.keys.iter().any(|key| key.name == name)
    };
    let shown = effective(&of_file("").unwrap()).unwrap();
    for (section, values) in &shown {
        for name in values.as_table().unwrap().keys() {
            assert!(known(section, name), "{section}.{name}");
        }
    }
}

#[test]
fn guards_are_read_built_and_shown_as_they_can_be_written() {
    let file = "[[guard]]\nname = \"pii\"\nkind = \"pattern\"\naction = \"redact\"\nrestore = true\n\
                entities = [\"email\", \"phone\"]\n\n[[guard]]\nname = \"words\"\nkind = \"pattern\"\n\
                action = \"block\"\nstage = \"both\"\ndeny = [\"x\"]\n\n[[guard]]\nname = \"h\"\nkind = \"head\"\nhead = \"a.json\"\n\
                action = \"flag\"\non_error = \"pass\"\nthreshold = 0.25\n\n[[guard]]\nname = \"t\"\nkind = \"topic\"\n\
                action = \"escalate\"\ntimeout_ms = 50\ntopics = [{ name = \"n\", examples = [\"a\", \"b\", \"c\"] }]\n";
    let settings = of_file(file).unwrap();
    assert_eq!(settings.guards.len(), 4);
    let shown = effective_toml(&settings).unwrap();
    let again: toml::Table = toml::from_str(&shown).unwrap();
    let guards = toml::to_string(&Table::from_iter([("guard".to_owned(), again["guard"].clone())])).unwrap();
    assert_eq!(of_file(&guards).unwrap().guards, settings.guards);

    for (file, words) in [
        ("[[guard]]\nname = \"a\"\naction = \"block\"", "kind"),
        ("[[guard]]\nname = \"a\"\naction = \"block\"\nkind = \"heart\"", "known are: pattern"),
        ("[[guard]]\nname = \"a\"\naction = \"block\"\nkind = \"head\"", "head is missing"),
        ("[[guard]]\nname = \"a\"\naction = \"block\"\nkind = \"topic\"\nalow = [\"x\"]", "`allow`"),
        ("[[guard]]\nname = \"a\"\naction = \"stop\"\nkind = \"pattern\"", "stop"),
        ("[[guard]]\nname = \"a\"\naction = \"block\"\nkind = \"pattern\"\nentities = [\"e-mail\"]", "email"),
    ] {
        let error = of_file(file).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
    }
}
