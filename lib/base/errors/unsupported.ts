import { withCode } from './coded-error.ts'

// The platforms with a published binary: package.json's napi.targets.
const platforms = 'linux-x64-gnu linux-arm64-gnu linux-x64-musl linux-arm64-musl darwin-x64 darwin-arm64 freebsd-x64'

/** Returns the error of a platform without descriptor passing, or without a loadable binary; `failure` is the loader's error. */
export function unsupportedPlatform(failure: unknown): Error {
  const reason =
    process.platform === 'win32' ? "Windows' Unix domain sockets carry no descriptors" : binaryMissing(failure)
  return withCode(new Error(`fdpass does not work here: ${reason}`, { cause: failure }), 'ERR_UNSUPPORTED_PLATFORM')
}

function binaryMissing(failure: unknown): string {
  const platform = `${process.platform}-${process.arch}${libc()}`
  const source =
    'build one in a clone of fdpass with `npm run build:native`, and set NAPI_RS_NATIVE_LIBRARY_PATH ' +
    'to the path of the .node file'
  if (!platforms.split(' ').includes(platform)) {
    return `there is no binary for ${platform}, only for ${platforms.replaceAll(' ', ', ')}; ${source}`
  }
  if (failure instanceof Error && /["']#binding["']/.test(failure.message)) {
    return "its binary cannot be found from within a bundle: leave fdpass outside (with esbuild `external: ['fdpass']`)"
  }
  // The loader reports each attempt as the cause of the next one.
  for (let error = failure; error instanceof Error; error = error.cause) {
    if (!error.message.startsWith('Cannot find '))
      return `the binary for ${platform} could not be loaded: ${error.message}`
  }
  return (
    `the package fdpass-${platform}, which holds the binary for this platform, is not installed. It is an optional ` +
    'dependency: install without --omit=optional (--no-optional); with a lock file that was made on another platform, delete ' +
    'it and node_modules first; and from a registry that has the package. ' +
    `Otherwise, ${source}`
  )
}

function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report as (NodeJS.ProcessReport & { excludeNetwork?: boolean }) | undefined
  if (report === undefined) return '-gnu'
  report.excludeNetwork = true // otherwise the report resolves the addresses of all sockets
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header !== undefined && header.glibcVersionRuntime === undefined ? '-musl' : '-gnu'
}
