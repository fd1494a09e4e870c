//! A file of packed weights: any bytes as the file, and any bytes as the table in it, which a right
//! checksum would let through; each matrix of a table looked for in a file that hardly holds it.

use std::sync::Arc;

use engine::packed::{Digest, PackedFile, parse_table};
use kernels::formats::by_ggml_type;
use kernels::mapped::Mapped;
use kernels::panels::Panels;
use kernels::pool::Pool;

use crate::{Seed, Target};

/// Bytes of the file that a table's matrices are looked for in.
const FILE_BYTES: usize = 4096;

/// The target.
pub const TARGET: Target = Target {
    name: "packed",
    run,
    seeds: &[
        // The beginning of a file.
        Seed::Bytes(b"TNDMPACK\x01\0\0\0\x01\0\0\0"),
        // A table: `w`, Q8_0, 16 × 32, 576 bytes from 128 on; and `v`, Q4_K, 16 × 256.
        Seed::Bytes(
            b"\x01\0w\x08\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\x40\x02\0\0\0\0\0\0\
              \0\0\0\0\0\0\0\0\
              \x01\0v\x0c\0\0\0\x10\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\x40\x09\0\0\0\0\0\0\
              \0\0\0\0\0\0\0\0",
        ),
    ],
    words: &[
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\x80",
        b"\0\x10\0\0\0\0\0\0",
        b"\x0e\0\0\0",
    ],
};

fn run(data: &[u8]) {
    // As if it were packed from the file that it names.
    let source = data.get(16..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let _ = PackedFile::new(Mapped::from(data.to_vec()), &Digest(source), &Pool::new(1));
    let Ok(matrices) = parse_table(data) else { return };
    assert!(matrices.iter().map(|matrix| matrix.name.len()).sum::<usize>() <= data.len());
    let file = Arc::new(Mapped::from(vec![0x5A; FILE_BYTES]));
    for matrix in matrices {
        let Some(format) = by_ggml_type(matrix.ggml_type) else { continue };
        let [rows, columns, start] = [matrix.rows, matrix.columns, matrix.start].map(|n| n as usize);
        let Ok(panels) = Panels::of_file(format, (rows, columns), &file, start) else { continue };
        let held: usize = panels.parts().iter().map(|part| part.len()).sum();
        assert!(held == panels.bytes() && start + held <= FILE_BYTES);
        assert!(panels.parts().iter().all(|part| part.iter().all(|byte| *byte == 0x5A)));
    }
}
