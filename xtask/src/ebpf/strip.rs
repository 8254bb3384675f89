//! Removes DWARF from a linked BPF object and keeps what loaders read: code, maps, symbols, relocations, BTF.

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Done here and not by llvm-strip, so that the result does not depend on which LLVM tools a machine has.
pub fn strip(linked: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(linked).context("the linker's output is no ELF file")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        // A linked object has these relocations applied; loaders read .BTF.ext as it is, and they are a quarter of the file.
        section.delete = name.starts_with(b".debug_")
            || name.starts_with(b".rel.debug_")
            || name == b".rel.BTF.ext";
    }
    elf.delete_orphan_relocations();
    elf.delete_orphan_symbols();
    for wanted in [".BTF", ".BTF.ext"] {
        if !elf
            .sections
            .iter()
            .any(|section| !section.delete && section.name.as_slice() == wanted.as_bytes())
        {
            bail!(
                "the linked object has no {wanted} section: bpf-linker needs --btf and rustc debug information"
            );
        }
    }
    // LLVM names sections and symbols in one table, the builder needs two.
    if !elf
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = elf.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("cannot write the stripped object")?;
    Ok(stripped)
}
