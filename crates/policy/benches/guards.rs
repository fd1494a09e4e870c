//! How fast guards read, clean prose, code, other scripts; and what heads cost once a model has read.

use std::hint::black_box;

use contract::{LayerState, LayerTokens, Reading, TokenStates};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use policy::guards::pattern::Scanner;
use policy::guards::stream::{Window, scan};
use policy::token_head::{self, Part, TokenHead, TokenTraining};
use policy::{Head, Heads};

const PROSE: &str = "The committee met again on Tuesday to discuss the new library. Several members, among them the \
    treasurer, thought that the building was too small; others said that it would do for twenty years. \"We can't \
    know,\" the chair said, and closed the meeting at half past nine. A decision is expected in spring, after the \
    architects have shown their second draft to the public and the council has voted on it.\n";

/// Tables of a program.
const NUMBERS: &str = "    [0x1f, 1200, 3.25, -7], [12, 4000, 0.5, 18], (1024, 768, 60), 17_000, 2024-03-01, v1.2.3, 1e-9, 99.95;\n";

const CHINESE: &str = "委员会星期二再次开会，讨论新图书馆的建设。几位委员认为大楼太小，另一些人说足够用二十年。预计春天作出决定。\n";

const ARABIC: &str =
    "اجتمعت اللجنة مرة أخرى يوم الثلاثاء لمناقشة المكتبة الجديدة، وقال بعضهم إن المبنى صغير جدا.\n";

const CODE: &str = "let total = rows.iter().map(|row| row.values[3] * 0.25).sum::<f64>(); // see issue 4217\n\
    if total > 1_000_000.0 { return Err(Error::TooLarge { limit: 1 << 20, total }); } assert_eq!(a.b.c(), x::y);\n";

const RUSSIAN: &str = "Комитет снова собрался во вторник, чтобы обсудить новую библиотеку. Некоторые считали, что \
    здание слишком мало, другие говорили, что его хватит на двадцать лет.\n";

fn guards(criterion: &mut Criterion) {
    let scanner = Scanner::new(&[], (&[], &[]), 0.5).expect("the defaults are right");
    let mut group = criterion.benchmark_group("guards");
    for (name, text) in [
        ("prose", PROSE),
        ("code", CODE),
        ("numbers", NUMBERS),
        ("russian", RUSSIAN),
        ("chinese", CHINESE),
        ("arabic", ARABIC),
    ] {
        let text = text.repeat((1 << 20) / text.len());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bench| bench.iter(|| scan(&scanner, black_box(&text)).len()));
    }
    let pieces: Vec<&str> = PROSE.split_inclusive(' ').collect();
    group.throughput(Throughput::Elements(pieces.len() as u64));
    group.bench_function("stream, by word", |bench| {
        bench.iter(|| {
            let mut window = Window::default();
            pieces.iter().map(|piece| window.push(black_box(piece), &scanner).len()).sum::<usize>()
        });
    });
    group.finish();
}

/// States of so many tokens, as a model of this width would show them.
fn states(tokens: usize, hidden: usize) -> Vec<f32> {
    (0..tokens * hidden).map(|at| ((at * 37 % 101) as f32 - 50.0) / 25.0).collect()
}

/// What the shipped heads of the 0.5B cost once the reading is there, and a token head of the same model on 128 tokens.
fn heads(criterion: &mut Criterion) {
    const HIDDEN: usize = 896;
    let shipped = [
        include_str!("../../cli/heads/qwen2.5-coder-0.5b.injection.json"),
        include_str!("../../cli/heads/qwen2.5-coder-0.5b.harmful.json"),
    ];
    let shipped = shipped.map(|text| Head::load(text).expect("a shipped head is right"));
    let state = |layer| LayerState { layer, last: states(1, HIDDEN), mean: states(1, HIDDEN) };
    let layers = Heads::new(shipped.to_vec()).expect("their names differ").layers();
    let text = "Ann lives at 12 Hill Rd, now. ".repeat(16);
    let layer = LayerTokens { layer: 10, states: states(text.len() / 4, HIDDEN) };
    let ends = (1..=text.len() / 4).map(|token| token * 4).collect();
    let tokens = TokenStates { text: text.clone().into_bytes(), ends, layers: vec![layer] };
    let reading = Reading { states: layers.into_iter().map(state).collect(), ..Reading::default() };
    let parts = vec![-1, 0, 1, 2].into_iter().map(|word| Part { layer: 10, word }).collect();
    let token_head = TokenHead {
        format: token_head::FORMAT.to_owned(),
        version: token_head::VERSION,
        name: "names".to_owned(),
        model: shipped[0].model.clone(),
        parts,
        classes: token_head::CLASSES.map(str::to_owned).to_vec(),
        weights: states(5 * 4, HIDDEN),
        bias: vec![0.0; 5],
        changes: vec![0.0; 25],
        threshold: 0.0,
        training: TokenTraining::default(),
    };
    let mut group = criterion.benchmark_group("heads");
    group.bench_function("both shipped", |bench| {
        bench.iter(|| {
            shipped.iter().map(|head| head.score(black_box(&reading)).expect("it fits")).sum::<f64>()
        });
    });
    group.bench_function("token head, 120 tokens", |bench| {
        bench.iter(|| token_head.find(black_box(&text), &tokens).expect("it fits").len());
    });
    group.finish();
}

criterion_group!(benches, guards, heads);
criterion_main!(benches);
