// Makes dist/cli out of build/lib/cli: the command line, whose only dependency, commander, becomes part of it. `fdpass` itself
// stays outside. It begins with what tsc has made: esbuild 0.28 has `using` in a loop throw again what an earlier turn threw.
import { chmodSync, copyFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { root } from './run.mjs'

const folder = join(root, 'dist', 'cli')
rmSync(folder, { recursive: true, force: true })
await build({
  absWorkingDir: root,
  entryPoints: ['build/lib/cli/main.js', 'build/lib/cli/openfile.js'],
  outdir: folder,
  bundle: true,
  splitting: true,
  minify: true,
  keepNames: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  external: ['fdpass', 'fdpass/*'],
  chunkNames: '[name]-[hash]',
  // commander is CommonJS, and requires modules of Node's.
  banner: { js: "import{createRequire as $require}from'node:module';const require=$require(import.meta.url);" },
  logLevel: 'warning'
})
chmodSync(join(folder, 'main.js'), 0o755)
copyFileSync(join(root, 'node_modules', 'commander', 'LICENSE'), join(folder, 'commander.LICENSE'))
