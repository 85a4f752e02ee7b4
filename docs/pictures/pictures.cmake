# Draws the pictures of this folder, and compares them with what is here; with -Dupdate=ON, puts them here.
# cmake -Dtool=... -Dwork=... [-Dupdate=ON] -P pictures.cmake

set(here ${CMAKE_CURRENT_LIST_DIR})

function(draw name)
  if(update)
    set(picture ${here}/${name}.svg)
  else()
    set(picture ${work}/${name}.svg)
  endif()
  execute_process(
    COMMAND ${tool} plan ${ARGN} --workers 64 --cost-model ${here}/cost_model.json --svg ${picture}
    OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY
  )
  file(SHA256 ${picture} drawn)
  file(SHA256 ${here}/${name}.svg expected)
  if(NOT drawn STREQUAL expected)
    message(SEND_ERROR "${name}.svg is not what the tool draws (${picture}); the target espalier_pictures updates it")
  endif()
endfunction()

file(MAKE_DIRECTORY ${work})
draw(sequence star:4096,16,256 --heads 8,2,128 --strategy sequence)
draw(node star:4096,16,256 --heads 8,2,128 --strategy node)
draw(node_chunk star:4096,16,256 --heads 8,2,128 --strategy node_chunk)
draw(flatten tokens:1500,32 --heads 8,2,128 --strategy flatten)
