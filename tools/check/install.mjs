// Installs programs for tests from npm that are no dependencies of the project, each into its own folder in node_modules/.fdpass.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

/** Installs a package, named with its version, unless it is installed; returns the folder that has its node_modules. */
export function install(name, { overrides = {}, ready = () => true } = {}) {
  const folder = join(root, 'node_modules', '.fdpass', 'runtimes', name.replace(/\W+/g, '-'))
  const installed = join(folder, 'node_modules', name.replace(/(?<=.)@.*/, ''))
  if (existsSync(installed) && ready(folder)) return folder
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ overrides }))
  console.error(`fdpass: ${name} …`)
  spawnSync('npm', ['install', '--no-audit', '--no-fund', name], {
    cwd: folder,
    stdio: ['ignore', 2, 2]
  })
  // Some packages install their executable by a script, which npm's configuration may disable.
  for (const file of ['install.js', 'install.cjs', 'installArchSpecificPackage.js']) {
    if (!ready(folder) && existsSync(join(installed, file)))
      spawnSync(process.execPath, [file], { cwd: installed, stdio: ['ignore', 2, 2] })
  }
  if (!existsSync(installed) || !ready(folder)) throw new Error(`npm could not install ${name}`)
  return folder
}

/** Installs a runtime; returns the path of its executable. */
export function installRuntime(name, bin) {
  const executable = (folder) => join(folder, 'node_modules', '.bin', bin)
  const ready = (folder) => spawnSync(executable(folder), ['--version']).status === 0
  return executable(install(name, { ready }))
}
