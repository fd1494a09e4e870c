//! How fast guards read: clean prose, prose full of numbers and names, other scripts.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use policy::guards::pattern::Scanner;
use policy::guards::stream::{Window, scan};

const PROSE: &str = "The committee met again on Tuesday to discuss the new library. Several members, among them the \
    treasurer, thought that the building was too small; others said that it would do for twenty years. \"We can't \
    know,\" the chair said, and closed the meeting at half past nine. A decision is expected in spring, after the \
    architects have shown their second draft to the public and the council has voted on it.\n";

const CODE: &str = "let total = rows.iter().map(|row| row.values[3] * 0.25).sum::<f64>(); // see issue 4217\n\
    if total > 1_000_000.0 { return Err(Error::TooLarge { limit: 1 << 20, total }); } assert_eq!(a.b.c(), x::y);\n";

const RUSSIAN: &str = "Комитет снова собрался во вторник, чтобы обсудить новую библиотеку. Некоторые считали, что \
    здание слишком мало, другие говорили, что его хватит на двадцать лет.\n";

fn guards(criterion: &mut Criterion) {
    let scanner = Scanner::new(&[], (&[], &[]), 0.5).expect("the defaults are right");
    let mut group = criterion.benchmark_group("guards");
    for (name, text) in [("prose", PROSE), ("code", CODE), ("russian", RUSSIAN)] {
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

criterion_group!(benches, guards);
criterion_main!(benches);
