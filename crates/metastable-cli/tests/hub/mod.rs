//! Models and adapters by their names on the Hub, downloaded from a server on this machine.

mod refused;
mod resumed;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::util::{Ended, World, repository};
use server::{COMMIT, Server};
use sha2::{Digest, Sha256};

/// A folder to run in, with a cache of its own, and a Hub.
struct Hubbed {
    world: World,
    server: Server,
}

impl Hubbed {
    /// A Hub with the tiny Llama as `org/tiny`, beside a pickle of the same weights.
    fn new() -> Self {
        let server = Server::start();
        let mut files = model("tiny-llama");
        files.push(("pytorch_model.bin", b"cos\nsystem\n".to_vec()));
        files.push(("onnx/model.onnx", vec![0; 10]));
        server.publish("org/tiny", files);
        Self { world: World::new(), server }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", &self.server.address);
        command.env("HF_HOME", self.world.path().join("hf")).env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }

    /// The logits of a model, which must be those of the folder of fixtures.
    fn check_logits(&self, name: &str, file: &str) {
        let ended = self.run(&["logits", name, "--ids", "5,6,7", "-o", file]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{name}");
        let fixture = fixture("tiny-llama");
        self.world.succeed(&["logits", fixture.to_str().unwrap(), "--ids", "5,6,7", "-o", "expected.safetensors"]);
        assert_eq!(self.world.read(file), self.world.read("expected.safetensors"));
    }

    fn cached(&self, repository: &str) -> PathBuf {
        self.world.path().join("hf/hub").join(format!("models--{}", repository.replace('/', "--")))
    }

    fn snapshot(&self, repository: &str) -> PathBuf {
        self.cached(repository).join("snapshots").join(COMMIT)
    }

    fn blobs(&self, repository: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cached(repository).join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(&repository("crates/metastable-model/tests/fixtures")).join(name)
}

/// The files of a fixture.
fn model(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let files = ["config.json", "model.safetensors", "tokenizer.json"];
    files.into_iter().map(|file| (file, fs::read(fixture(name).join(file)).unwrap())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    server::hexadecimal(&Sha256::digest(bytes))
}

#[test]
fn a_model_is_downloaded_once_into_the_layout_of_the_hub() {
    let hubbed = Hubbed::new();
    let mut command = hubbed.command(&["inspect", "org/tiny", "--prompt", "to be", "-o", "run"]);
    let ended = Ended::from(command.env("HF_TOKEN", "hf_secret").output().unwrap());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(hubbed.world.report("run")["title"].as_str().unwrap().contains("tiny"));
    // Blobs under their hashes, names that point at them, the branch's commit.
    let weights = fs::read(fixture("tiny-llama/model.safetensors")).unwrap();
    assert!(hubbed.blobs("org/tiny").contains(&sha256(&weights)));
    assert_eq!(hubbed.blobs("org/tiny").len(), 3);
    assert_eq!(fs::read_to_string(hubbed.cached("org/tiny").join("refs/main")).unwrap(), COMMIT);
    let pointer = hubbed.snapshot("org/tiny").join("model.safetensors");
    assert_eq!(fs::read(&pointer).unwrap(), weights);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../blobs").join(sha256(&weights)));
    // The token went to the Hub and nowhere else; no pickle was asked for.
    let asked = hubbed.server.asked();
    assert!(asked.iter().all(|asked| asked.token.is_some() == (asked.host == "hub")), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.host == "second"));
    assert!(!asked.iter().any(|asked| asked.line.contains(".bin") || asked.line.contains("onnx")), "{asked:?}");
    // A second time, and offline, nobody is asked.
    hubbed.check_logits("org/tiny", "again.safetensors");
    hubbed.check_logits(&format!("org/tiny@{COMMIT}"), "commit.safetensors");
    assert_eq!(hubbed.server.asked(), []);
    let ended = hubbed.run(&["--offline", "logits", "org/tiny", "--ids", "5,6,7", "-o", "off.safetensors"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn what_another_tool_left_out_is_added() {
    let hubbed = Hubbed::new();
    // As `AutoModel.from_pretrained` leaves it: config and weights, no tokenizer.
    let snapshot = hubbed.snapshot("org/tiny");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(hubbed.cached("org/tiny").join("refs")).unwrap();
    fs::write(hubbed.cached("org/tiny").join("refs/main"), COMMIT).unwrap();
    for (file, content) in model("tiny-llama").iter().take(2) {
        fs::write(snapshot.join(file), content).unwrap();
    }
    let ended = hubbed.run(&["inspect", "org/tiny", "--prompt", "to be", "-o", "run"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(snapshot.join("tokenizer.json").exists());
}

#[test]
fn shards_are_those_of_the_index() {
    let hubbed = Hubbed::new();
    let mut files = model("tiny-llama");
    let weights = std::mem::replace(&mut files[1], ("model-00001-of-00001.safetensors", Vec::new())).1;
    let length = usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&weights[8..8 + length]).unwrap();
    let names = header.keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<_, _> =
        names.map(|name| (name.clone(), "model-00001-of-00001.safetensors".into())).collect();
    files[1].1 = weights;
    files.push(("model.safetensors.index.json", serde_json::json!({"weight_map": map}).to_string().into_bytes()));
    files.push(("other.safetensors", vec![0; 20]));
    hubbed.server.publish("org/shards", files);
    hubbed.check_logits("org/shards", "x.safetensors");
    assert!(!hubbed.snapshot("org/shards").join("other.safetensors").exists());
}

#[test]
fn a_gguf_file_is_named_where_there_are_several() {
    let hubbed = Hubbed::new();
    let gguf = fs::read(fixture("tiny-llama.gguf")).unwrap();
    hubbed.server.publish("org/gguf", vec![("a-Q8_0.gguf", gguf), ("a-F16.gguf", vec![0; 9])]);
    let ended = hubbed.run(&["logits", "org/gguf", "--ids", "5", "-o", "x.safetensors"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("hint: name the file, as org/gguf/a-F16.gguf"), "{ended:?}");
    let ended = hubbed.run(&["logits", "org/gguf/a-Q8_0.gguf", "--ids", "5", "-o", "x.safetensors"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn adapters_have_names_too() {
    let hubbed = Hubbed::new();
    let folder = fixture("minilm-spam-lora");
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    let files = ["adapter_config.json", "adapter_model.safetensors"].map(|file| (file, read(file)));
    hubbed.server.publish("org/spam-lora", files.into());
    let ended = hubbed.run(&["adapter", "info", "org/spam-lora", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["modules"].as_array().unwrap().len(), 12);
    let ended = hubbed.run(&["inspect", "org/spam-lora", "--prompt", "x", "-o", "run"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("this is an adapter"), "{ended:?}");
}

#[test]
fn reports_show_names_and_never_where_the_cache_lies() {
    let hubbed = Hubbed::new();
    let files = |folder: &str| {
        let folder = fixture(folder);
        ["adapter_config.json", "adapter_model.safetensors"].map(|file| (file, fs::read(folder.join(file)).unwrap()))
    };
    hubbed.server.publish("org/dora", files("../golden/adapters/llama-dora").into());
    hubbed.server.publish("org/gpt2-lora", files("../golden/adapters/gpt2-conv1d").into());
    hubbed.server.publish("org/gpt2", model("tiny-gpt2"));
    let cases: [&[&str]; 7] = [
        &["inspect", "org/tiny", "--prompt", "to be", "--adapter", "org/dora", "-o", "twin", "--format", "json"],
        &["adapter", "info", "org/dora", "--base", "org/tiny", "-o", "page", "--json"],
        &["adapter", "info", "org/dora", "--json"],
        &["adapter", "check", "org/dora", "--json"],
        &["adapter", "compare", "org/dora", "org/dora", "--json"],
        &["adapter", "rebalance", "org/gpt2-lora", "balanced", "--json"],
        &["adapter", "merge", "org/gpt2", "org/gpt2-lora", "merged", "--json"],
    ];
    for case in cases {
        // First with downloads, then from the cache alone: the same words.
        let ended = hubbed.run(case);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{case:?}");
        assert!(ended.stdout.contains("org/dora") || ended.stdout.contains("org/gpt2-lora"), "{case:?}: {ended:?}");
        assert!(!ended.stdout.contains("snapshots"), "{case:?}: {ended:?}");
    }
    for report in ["twin/report.json", "twin/report.html", "twin/config.resolved.toml", "page/report.json"] {
        let text = String::from_utf8(hubbed.world.read(report)).unwrap();
        assert!(text.contains("org/dora") && !text.contains("snapshots"), "{report}");
    }
    assert!(hubbed.world.report("page")["title"].as_str().unwrap().starts_with("dora, "));
    let inputs = &hubbed.world.report("page")["provenance"]["inputs"];
    assert!(inputs["adapter_model.safetensors"].is_string(), "{inputs}");
}

#[test]
fn a_model_is_trained_by_its_name_from_the_hub_and_then_from_the_cache() {
    let hubbed = Hubbed::new();
    let config = "model = \"org/tiny@main\"\n[data]\nfile = \"text.txt\"\ntask = \"causal_lm\"\nmax_seq_length = 32\n\
                  [optimizer]\nmax_steps = 2\nbatch_size = 2\n[evaluation]\nevery = 2\n";
    hubbed.world.write("run.toml", config);
    hubbed.world.write("text.txt", (0..60).map(|i| format!("Speak {} to me again.\n", i % 7)).collect::<String>());
    // Not yet there: where it was looked for, beside the config first, and what helps.
    let ended = hubbed.run(&["--offline", "finetune", "run.toml", "-o", "run"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("looked for org/tiny@main, ") && ended.stderr.contains("refs/main"), "{ended:?}");
    assert!(ended.stderr.contains("leave out --offline") && !hubbed.world.path().join("run").exists(), "{ended:?}");
    assert_eq!(hubbed.server.asked(), []);
    for (folder, flags) in [("run", &["finetune"][..]), ("again", &["--offline", "finetune"])] {
        let ended = hubbed.run(&[flags, &["run.toml", "-o", folder, "--no-progress"]].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{folder}");
        assert_eq!(hubbed.server.asked().is_empty(), folder == "again");
    }
    let weights = |folder: &str| hubbed.world.read(&format!("{folder}/adapter/adapter_model.safetensors"));
    assert_eq!(weights("run"), weights("again"));
    // PEFT loads a base by its repository; the report shows what was asked for, and the hashes of what was read.
    let config = hubbed.world.read("run/adapter/adapter_config.json");
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "org/tiny");
    let report = hubbed.world.report("run");
    assert_eq!(report["config"]["model"], "org/tiny@main");
    let expected = sha256(&fs::read(fixture("tiny-llama/model.safetensors")).unwrap());
    assert_eq!(report["provenance"]["inputs"]["model.safetensors"], expected.as_str());
    assert!(!report.to_string().contains("snapshots"));
    // A folder beside the config is what its name says, whatever the Hub has.
    fs::create_dir_all(hubbed.world.path().join("org/tiny@main")).unwrap();
    let ended = hubbed.run(&["finetune", "run.toml", "-o", "third"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("org/tiny@main/config.json"), "{ended:?}");
}
