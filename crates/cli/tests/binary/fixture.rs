//! A home folder of its own for every test, the binary in it, and the tiny models.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that any process here may take.
const TIME_MAX: Duration = Duration::from_secs(60);

/// The path of a tiny model.
pub fn tiny(name: &str) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny");
    golden.join(format!("{name}.gguf")).display().to_string()
}

/// A folder in which `tandem` runs, which is its home too.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Home { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// A tiny model that has a chat template: every message's text and a space.
    pub fn chat_model(&self, name: &str) -> String {
        let content = std::fs::read(tiny(name)).unwrap();
        let file = with_text(
            &content,
            "tokenizer.chat_template",
            "{% for m in messages %}{{ m.content }} {% endfor %}",
        );
        self.file(&format!("{name}-chat.gguf"), file)
    }

    /// `tandem` with nothing of the environment but what it needs.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(args).current_dir(self.folder.path()).env_clear();
        command.env("TANDEM_HOME", self.folder.path()).env("TANDEM_THREADS", "2");
        command.env("TANDEM_LOG", "warn");
        // Nothing here may reach a network.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("TANDEM_PYTHON", "no-such-python");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    /// Runs it with text on stdin.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }

    /// Starts a server on a free port and waits until it is ready.
    pub fn serve(&self, args: &[&str]) -> Server {
        self.serve_in(&[], args)
    }

    /// The same, with more environment variables.
    pub fn serve_in(&self, environment: &[(&str, &str)], args: &[&str]) -> Server {
        let mut all = vec!["serve", "--json", "--listen", "127.0.0.1:0"];
        all.extend(args);
        let mut command = self.command(&all);
        let mut child = command.envs(environment.iter().copied()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut announced = String::new();
        let mut stdout = child.stdout.take().unwrap();
        let mut byte = [0];
        while !announced.ends_with('\n') && stdout.read(&mut byte).unwrap() == 1 {
            announced.push(char::from(byte[0]));
        }
        let announced: Value = serde_json::from_str(&announced).unwrap_or_else(|error| {
            panic!("the server said {announced:?} ({error}) and ended with {:?}", child.wait())
        });
        let url = announced["url"].as_str().unwrap().to_owned();
        Server { child, url }
    }
}

/// GGUF bytes with one more text in front of the metadata. Its length keeps what follows aligned.
fn with_text(gguf: &[u8], key: &str, text: &str) -> Vec<u8> {
    const HEADER_BYTES: usize = 24; // magic, version, tensor count, entry count
    const TYPE_STRING: u32 = 8;
    let fixed = 8 + key.len() + 4 + 8;
    let comment = |spaces: usize| format!("{text}{{#{}#}}", " ".repeat(spaces));
    let spaces = (0..32).find(|spaces| (fixed + comment(*spaces).len()).is_multiple_of(32)).unwrap();
    let text = comment(spaces);
    let entries = u64::from_le_bytes(gguf[16..HEADER_BYTES].try_into().unwrap()) + 1;
    let mut file = gguf[..16].to_vec();
    file.extend(entries.to_le_bytes());
    file.extend((key.len() as u64).to_le_bytes());
    file.extend(key.as_bytes());
    file.extend(TYPE_STRING.to_le_bytes());
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
    file.extend(&gguf[HEADER_BYTES..]);
    file
}

/// A process that is over.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The JSON on stdout, which must be all there is, and nothing may be on stderr.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Asserts a failure with this code and these words on stderr, and nothing on stdout.
    pub fn assert_fails(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// Its base URL, with `/v1`.
    pub url: String,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, in lower case.
    head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.map(str::trim)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Server {
    fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap().split('/').next().unwrap()
    }

    /// Sends a request and gives the connection, from which nothing was read yet.
    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.authority()).unwrap();
        stream.set_read_timeout(Some(TIME_MAX)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.authority(),
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        read(self.send("POST", path, &body.to_string()))
    }

    pub fn get(&self, path: &str) -> Answer {
        read(self.send("GET", path, ""))
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Option<i32> {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads an answer to its end. Chunk sizes of a streamed body stay in it.
pub fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}
