// Checks of the Rust half that take tools which not everybody has; each installs its own:
//
//   npm run test:supply [-- --advisories]    licences, bans and sources of all crates (deny.toml); with a network also known vulnerabilities
//   npm run test:msrv                        it compiles with the oldest Rust that Cargo.toml promises
//   npm run test:miri                        the walk over control messages, under Miri
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

/** The version of cargo-deny: with another one the same sources could be judged otherwise. */
const DENY = '0.20.2'

/** Runs a command in the project's folder; its failure is ours. */
function execute(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: 'inherit'
  })
  if (error !== undefined) console.error(`${command} could not be started (${error.code}): it has to be installed`)
  if (status !== 0) process.exit(status ?? 1)
}

/** Installs a toolchain of rustup's. */
function install(toolchain, ...components) {
  const more = components.flatMap((component) => ['--component', component])
  execute('rustup', ['toolchain', 'install', toolchain, '--profile', 'minimal', '--no-self-update', ...more])
}

const checks = {
  supply(...args) {
    const folder = join(root, 'node_modules', '.fdpass', `cargo-deny-${DENY}`)
    const deny = join(folder, 'bin', 'cargo-deny')
    if (!existsSync(deny)) execute('cargo', ['install', 'cargo-deny', '--locked', '--version', DENY, '--root', folder])
    execute(deny, ['--workspace', '--locked', '--offline', 'check', 'licenses', 'bans', 'sources'])
    if (args.includes('--advisories')) execute(deny, ['--workspace', '--locked', 'check', 'advisories'])
  },
  msrv() {
    const [, version] = /^rust-version = "(.*)"$/m.exec(readFileSync(join(root, 'Cargo.toml'), 'utf8'))
    install(version)
    execute('cargo', [`+${version}`, 'check', '--workspace', '--all-targets', '--locked'])
  },
  miri() {
    install('nightly', 'miri', 'rust-src')
    // Its files are real ones, and what is beyond these tests makes system calls that Miri does not know.
    const env = { MIRIFLAGS: '-Zmiri-disable-isolation' }
    execute('cargo', ['+nightly', 'miri', 'test', '--package=fdpass-core', '--lib', '--', 'sys::cmsg::'], env)
  }
}

const [name, ...args] = process.argv.slice(2)
if (!Object.hasOwn(checks, name)) {
  console.error(`Usage: node tools/check/rust.mjs ${Object.keys(checks).join('|')}`)
  process.exit(2)
}
checks[name](...args)
