import { execFileSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from '../run.mjs'

const ACCEPTED = ['MIT', 'ISC']

/**
 * Returns the licences of everything that is linked into the binary for a target, with their texts: those of the crates, of the standard
 * library, and of zig's additions. Throws if a crate has no accepted licence, or lacks its text.
 */
export function licences(target) {
  // The terms of a licence appear once, below the notices of all its crates. The crates' copies differ in their line breaks.
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
  return `This binary contains parts of the software listed below.\n\n${[...own, toolchain].join(`\n${'-'.repeat(80)}\n\n`)}`
}

/** Returns the crates that cargo links for a target, without build dependencies, macros and the project's own. */
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
  // The crates of napi-rs lack the file, which is in its npm package.
  const napi = repository?.includes('napi-rs/napi-rs')
  const folder = napi ? join(root, 'node_modules', '@napi-rs', 'cli') : dirname(manifest_path)
  const files = readdirSync(folder).filter((file) => /^licen[cs]e/i.test(file))
  const text = files.find((file) => file.toUpperCase().includes(choice)) ?? files.find((file) => !/-|_/.test(file))
  if (text === undefined) throw new Error(`${name} lacks the text of its licence ${choice} in ${folder}`)
  return readFileSync(join(folder, text), 'utf8').replaceAll('\r', '').trim()
}

function cargo(...args) {
  return execFileSync('cargo', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 })
}
