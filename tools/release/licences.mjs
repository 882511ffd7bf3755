import { execFileSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from '../run.mjs'

const ACCEPTED = ['MIT', 'ISC']

/**
 * The licences of all that is linked into the binary for a target, with their texts: each crate's own file, that of the
 * standard library and of what zig adds. It fails where a crate has none of the accepted licences, or has not its text.
 */
export function licences(target) {
  // A licence's terms stand once, below the notices of all crates that have it; they differ in where their lines end.
  const licensed = new Map()
  for (const crate of linkedCrates(target)) {
    const text = licenceText(crate)
    const begin = text.search(/^Permission (?:is hereby granted|to use, copy)/m)
    const terms = text.slice(begin).replace(/\s+/g, ' ')
    const notice = [`${crate.name} ${crate.version} (${crate.license})`, text.slice(0, begin).trim()].filter(Boolean)
    const { notices = [], shown = text.slice(begin) } = licensed.get(terms) ?? {}
    licensed.set(terms, { notices: [...notices, notice.join('\n')], shown })
  }
  const own = [...licensed.values()].map(({ notices, shown }) => `${notices.join('\n\n')}\n\n${shown}\n`)
  const toolchain = readFileSync(join(root, 'tools', 'release', 'toolchain-licences.txt'), 'utf8')
  return `The binary holds parts of what follows.\n\n${[...own, toolchain].join(`\n${'-'.repeat(80)}\n\n`)}`
}

/** The crates that cargo links for a target: neither those that only build, nor macros, nor our own. */
function linkedCrates(target) {
  const of = ['--locked', '--manifest-path', 'crates/binding/Cargo.toml']
  const edges = ['--edges', 'normal,no-proc-macro']
  const linked = cargo('tree', ...of, ...edges, '--target', target, '--prefix', 'none', '--format', '{p}')
  const ids = new Set(linked.split('\n').map((line) => line.split(' ').slice(0, 2).join(' ')))
  const { packages } = JSON.parse(cargo('metadata', ...of, '--format-version', '1', '--filter-platform', target))
  const crates = packages.filter(({ name, version, source }) => source !== null && ids.has(`${name} v${version}`))
  return crates.toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

function licenceText({ name, license, manifest_path, repository }) {
  const choice = ACCEPTED.find((accepted) => license.split(/ OR | AND |\//).includes(accepted))
  if (choice === undefined || license.includes(' AND ')) throw new Error(`${name} has the licence ${license}`)
  // napi-rs' crates come without the file, which its npm package has.
  const napi = repository?.includes('napi-rs/napi-rs')
  const folder = napi ? join(root, 'node_modules', '@napi-rs', 'cli') : dirname(manifest_path)
  const files = readdirSync(folder).filter((file) => /^licen[cs]e/i.test(file))
  const text = files.find((file) => file.toUpperCase().includes(choice)) ?? files.find((file) => !/-|_/.test(file))
  if (text === undefined) throw new Error(`${name} has no text of its licence ${choice} in ${folder}`)
  return readFileSync(join(folder, text), 'utf8').replaceAll('\r', '').trim()
}

function cargo(...args) {
  return execFileSync('cargo', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 })
}
