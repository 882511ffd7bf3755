// Checks of the Rust code that need additional tools. Each check installs its own:
//
//   npm run test:supply [-- --advisories]    licences, bans and sources of all crates (deny.toml); optionally known vulnerabilities, from the network
//   npm run test:msrv                        compiles with the oldest Rust version that Cargo.toml promises
//   npm run test:miri                        the walker over control messages, and the frame decoder with the worker's protocol, under Miri
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

/** The version of cargo-deny. Another version could judge the same sources differently. */
const DENY = '0.20.2'

/** Runs a command in the project's folder, and exits with its code if it fails. */
function execute(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: 'inherit'
  })
  if (error !== undefined) console.error(`Cannot start ${command} (${error.code}): install it`)
  if (status !== 0) process.exit(status ?? 1)
}

/** Installs a toolchain with rustup. */
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
    // The tests read real files. Other tests make system calls that Miri does not implement.
    const env = { MIRIFLAGS: '-Zmiri-disable-isolation' }
    execute(
      'cargo',
      ['+nightly', 'miri', 'test', '--package=fdpass-core', '--lib', '--', 'sys::cmsg::', 'fuzzing::tests::a_worker'],
      env
    )
  }
}

const [name, ...args] = process.argv.slice(2)
if (!Object.hasOwn(checks, name)) {
  console.error(`Usage: node tools/check/rust.mjs ${Object.keys(checks).join('|')}`)
  process.exit(2)
}
checks[name](...args)
